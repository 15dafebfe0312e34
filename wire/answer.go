package wire

import (
	"encoding/binary"
	"errors"
)

// Why a message is not the answer to a question.
var (
	// ErrMismatch: not a response, or one to another question.
	ErrMismatch = errors.New("response does not match the question")
	// ErrMalformed: the bytes are no DNS message.
	ErrMalformed = errors.New("response is malformed")
)

// Kind says what an answer is to a cache (RFC 2308, RFC 9520).
type Kind uint8

// Kinds. The zero value is the one that is never cached.
const (
	// Other: a referral, or records that do not belong to the question.
	Other Kind = iota
	// Positive: the type asked for is there, possibly behind CNAMEs.
	Positive
	// NXDomain: the name, or the end of its CNAME chain, does not exist.
	NXDomain
	// NoData: the name, or the end of its CNAME chain, exists without the
	// type (RFC 2308 section 2.2).
	NoData
	// Failure: SERVFAIL, REFUSED and every other code.
	Failure
)

// String returns a word for logs and metrics.
func (k Kind) String() string {
	switch k {
	case Other:
		return "other"
	case Positive:
		return "positive"
	case NXDomain:
		return "nxdomain"
	case NoData:
		return "nodata"
	case Failure:
		return "failure"
	}
	return "unknown"
}

// Section is where a record stands.
type Section uint8

// Sections of a message that hold records.
const (
	SectionAnswer Section = iota
	SectionAuthority
	SectionAdditional
)

// TTL is one record's time to live, and where it lies. A message's TTLs are in
// the order of its records, so they also tell where records end: RDLENGTH
// follows the TTL.
type TTL struct {
	Off     uint16 // relative to the tail
	Section Section
	// Spin marks the records of the first A or AAAA RRset of the answer: one
	// unbroken run, with RDATA of one length, whose order may be rotated.
	Spin bool
	TTL  uint32 // seconds; what a cache starts from
}

// maxHops is how many CNAMEs are followed to tell what an answer is. Resolvers
// give up at 8 to 17.
const maxHops = 16

// maxPointer is what the 14 bits of a compression pointer reach.
const maxPointer = 1 << 14

// Answer is a view of what an upstream said, refilled by Parse. Tail is a slice
// of the message or of a buffer that is reused, as TTLs is, by the next Parse: who keeps them copies them.
// A value is about 2.5 KiB, owned by one goroutine; reused, it allocates only
// when an answer has more records than any before it.
type Answer struct {
	RCode RCode  // with the bits of the OPT
	Flags uint16 // as on the wire
	// Counts without OPT.
	ANCount, NSCount, ARCount uint16
	// Tail is everything behind the question up to the OPT. RFC 6891 lets an
	// OPT stand anywhere in the additional section; what follows it is cut
	// off as well. That is safe: compression pointers point backwards, so
	// nothing in front of the cut can refer to anything behind it, and
	// additional records are a courtesy (RFC 2181 section 9). Closing the gap
	// instead would move names that others point at.
	Tail []byte
	TTLs []TTL
	Kind Kind
	// MinTTL is how long the answer holds, in seconds: the least TTL of the
	// answer section; for NXDomain and NoData of its SOA's TTL and MINIMUM too
	// (RFC 2308 section 5), and 0 without an SOA. 0 for Failure and Other.
	MinTTL uint32
	HasSOA bool // the authority section has one
	// Truncated: TC was set. Never to be cached.
	Truncated bool
	EDNS      bool
	ECSScope  uint8 // not 0: for a part of the address space only, never to be cached
	EDE       EDE   // the first one

	// labels has a bit for each offset at which a (rest of a) name starts.
	// A pointer may only point at one of them. So no loop is possible, and
	// no pointer reaches into bytes that change later, TTLs and addresses.
	labels [maxPointer / 64]uint64
	base   int // where the tail begins
	// pointed: something points at a name in the tail.
	pointed bool
	short   []byte // holds Tail if it is not the message's, see shorten
}

// Parse looks at a response to the question q: its bytes as sent, name, type
// and class (see Question). ID and source are the caller's to check. Every
// record is walked and every name followed. On an error the Answer is not to
// be used. A failure that comes as a bare header is a Failure.
//
// TTLs with the top bit set count as 0 (RFC 2181 section 8), the TTLs of an
// RRset are made one, the least (section 5.2), and the SOA of a negative answer
// gets a TTL of at most its MINIMUM, so that a cache behind us does not hold it
// for longer than we do.
func (a *Answer) Parse(msg, q []byte) error {
	a.reset(len(msg))
	switch matchQuestion(msg, q) {
	case questionOther:
		return ErrMismatch
	case questionAbsent:
		a.Flags = binary.BigEndian.Uint16(msg[2:])
		a.RCode = RCode(a.Flags & rcodeMask)
		a.Kind = Failure
		return nil
	}
	a.Flags = binary.BigEndian.Uint16(msg[2:])
	a.RCode = RCode(a.Flags & rcodeMask)
	a.Truncated = a.Flags&FlagTC != 0
	a.base = HeaderLen + len(q)
	if len(msg) > MaxMsg || !a.walk(msg) { // beyond MaxMsg, offsets do not fit
		return ErrMalformed
	}
	a.unifyTTLs(msg)
	a.classify(msg, Type(binary.BigEndian.Uint16(q[len(q)-4:])), Class(binary.BigEndian.Uint16(q[len(q)-2:])))
	a.markSpin(msg)
	a.shorten(msg)
	return nil
}

// Reply returns the answer as a reply to whoever asked the same question. It
// shares Tail and TTLs with a.
func (a *Answer) Reply() Reply {
	return Reply{
		Flags: a.Flags, RCode: a.RCode,
		AN: a.ANCount, NS: a.NSCount, AR: a.ARCount,
		Tail: a.Tail, TTLs: a.TTLs, TTLCap: NoTTLCap,
	}
}

func (a *Answer) reset(size int) {
	a.RCode, a.Flags = 0, 0
	a.ANCount, a.NSCount, a.ARCount = 0, 0, 0
	a.Tail, a.TTLs = nil, a.TTLs[:0]
	a.Kind, a.MinTTL, a.HasSOA = Other, 0, false
	a.base, a.pointed = 0, false
	a.Truncated, a.EDNS, a.ECSScope, a.EDE = false, false, 0, EDENone
	clear(a.labels[:min(len(a.labels), size/64+1)])
}

// How the question of a response compares with ours.
type questionMatch uint8

const (
	questionOther  questionMatch = iota // not a response to it
	questionSame                        // the same, case apart
	questionAbsent                      // none, in a failure that is a bare header
)

// matchQuestion compares the question of resp with q (name, type, class). It
// must be the same in the same place, hence uncompressed and of the same
// length, or pointers in the tail would mean something else to us.
func matchQuestion(resp, q []byte) questionMatch {
	if len(resp) < HeaderLen || len(q) < 5 {
		return questionOther
	}
	flags := binary.BigEndian.Uint16(resp[2:])
	if flags&FlagQR == 0 || flags&opcodeMask != 0 {
		return questionOther
	}
	switch binary.BigEndian.Uint16(resp[4:]) {
	case 0:
		rc := RCode(flags & rcodeMask)
		if len(resp) == HeaderLen && rc != RCodeNoError && rc != RCodeNXDomain {
			return questionAbsent
		}
		return questionOther
	case 1:
	default:
		return questionOther
	}
	if len(resp) < HeaderLen+len(q) {
		return questionOther
	}
	got, n := resp[HeaderLen:HeaderLen+len(q)], len(q)-4
	if nameLen(got) != n || string(got[n:]) != string(q[n:]) || !equalFold(got[:n], q[:n]) {
		return questionOther
	}
	return questionSame
}

// walk goes through all records, notes their TTLs and sets tail and counts.
func (a *Answer) walk(msg []byte) bool {
	if _, ok := a.walkName(msg, HeaderLen, len(msg)); !ok {
		return false
	}
	off, ok := a.base, true
	a.ANCount = binary.BigEndian.Uint16(msg[6:])
	a.NSCount = binary.BigEndian.Uint16(msg[8:])
	if off, ok = a.walkSection(msg, off, int(a.ANCount), SectionAnswer); !ok {
		return false
	}
	if off, ok = a.walkSection(msg, off, int(a.NSCount), SectionAuthority); !ok {
		return false
	}
	end := -1
	for range binary.BigEndian.Uint16(msg[10:]) {
		head, ok := a.walkName(msg, off, len(msg))
		if !ok || len(msg)-head < recordFixed {
			return false
		}
		if Type(binary.BigEndian.Uint16(msg[head:])) == TypeOPT {
			if end < 0 {
				end = off
			}
			if msg[off] != 0 {
				return false
			}
			if off, ok = a.opt(msg, head); !ok {
				return false
			}
			continue
		}
		next, ok := a.walkRecord(msg, head)
		if !ok {
			return false
		}
		if end < 0 {
			a.note(msg, head, SectionAdditional)
			a.ARCount++
		}
		off = next
	}
	if off != len(msg) {
		return false
	}
	if end < 0 {
		end = off
	}
	a.Tail = msg[a.base:end:end]
	return true
}

func (a *Answer) walkSection(msg []byte, off, n int, s Section) (int, bool) {
	for range n {
		head, ok := a.walkName(msg, off, len(msg))
		if !ok {
			return 0, false
		}
		if off, ok = a.walkRecord(msg, head); !ok || Type(binary.BigEndian.Uint16(msg[head:])) == TypeOPT {
			return 0, false
		}
		a.note(msg, head, s)
	}
	return off, true
}

// note adds the TTL of the record whose fixed part is at head.
func (a *Answer) note(msg []byte, head int, s Section) {
	ttl := binary.BigEndian.Uint32(msg[head+4:])
	if ttl > 1<<31-1 {
		ttl = 0
	}
	a.TTLs = append(a.TTLs, TTL{Off: uint16(head + 4 - a.base), Section: s, TTL: ttl})
}

// opt reads the OPT of a response, head at its type. A version other than 0
// is as good as no option; the extended RCODE holds all the same.
func (a *Answer) opt(msg []byte, head int) (next int, ok bool) {
	next = head + recordFixed + int(binary.BigEndian.Uint16(msg[head+8:]))
	if next > len(msg) || a.EDNS {
		return 0, false
	}
	a.EDNS = true
	a.RCode |= RCode(msg[head+4]) << 4
	if msg[head+5] != 0 {
		return next, true
	}
	for rest := msg[head+recordFixed : next]; len(rest) > 0; {
		code, body, tail, ok := nextOption(rest)
		if !ok {
			return 0, false
		}
		switch code {
		case optionECS:
			if len(body) < 4 {
				return 0, false
			}
			a.ECSScope = max(a.ECSScope, body[3])
		case optionEDE:
			if len(body) < 2 {
				return 0, false
			}
			if a.EDE == EDENone {
				a.EDE = EDE(binary.BigEndian.Uint16(body))
			}
		}
		rest = tail
	}
	return next, true
}
