package wire

import "encoding/binary"

// Query is a view of one request, refilled by Parse. Name and Cookie are
// slices of the message and hold until the reply is built over it. It is a
// plain value without pointers of its own, owned by one reader; nothing in it
// is allocated.
type Query struct {
	ID    uint16
	Flags uint16 // as on the wire
	Name  []byte // as sent, case kept: a slice of the message
	Type  Type
	Class Class
	// End is the offset just past the question; HeaderLen when no question
	// could be read.
	End int

	EDNS    bool   // an OPT was there
	UDPSize uint16 // what the client takes by UDP: at least MinUDP
	Version uint8  // EDNS version
	DO      bool

	// Options. Cookie is the first one's content, 8 or 16 to 40 octets.
	Cookie    []byte
	ECS       bool
	Keepalive bool
	Padding   bool
	NSID      bool

	verdict   Verdict
	cacheable bool
	keyLen    int
	key       [MaxKey]byte
}

// RD reports the RD bit of the request.
func (q *Query) RD() bool { return q.Flags&FlagRD != 0 }

// CD reports the CD bit of the request.
func (q *Query) CD() bool { return q.Flags&FlagCD != 0 }

// AD reports the AD bit of the request: the client understands AD in the
// reply (RFC 6840 section 5.7).
func (q *Query) AD() bool { return q.Flags&FlagAD != 0 }

// Key returns what cache and flight are keyed by; see AppendKey. It is valid
// until the next Parse, and empty unless Parse said Accept.
func (q *Query) Key() []byte { return q.key[:q.keyLen] }

// Verdict returns what the last Parse said.
func (q *Query) Verdict() Verdict { return q.verdict }

// Cacheable reports whether this question may be answered from a cache: its key
// is one to keep answers under (KeyCacheable), and it does not ask for an answer
// for somebody else's address (ECS, RFC 7871). Others are still forwarded.
func (q *Query) Cacheable() bool { return q.cacheable }

// UDPLimit returns the size of the largest reply that may be sent by UDP: what
// the client takes, but never more than MaxUDP.
func (q *Query) UDPLimit() int { return min(int(q.UDPSize), MaxUDP) }

// AppendUpstream appends the query to ask an upstream, with ID 0; see the
// function of the same name.
func (q *Query) AppendUpstream(dst []byte) []byte { return AppendUpstream(dst, q.Key()) }

// Counts as they are in nearly all requests: one question and nothing else, or
// one question and one additional record.
const (
	countsPlain uint64 = 1 << 48
	countsOne   uint64 = 1<<48 | 1
)

// Parse looks at a request. It is strict: exactly one question, uncompressed
// and within the limits of names, nothing behind the last record, at most one
// OPT, owned by the root, with options that fill it exactly. Whatever the
// verdict, the Query is good for AppendError; for AppendReply and Key only
// after Accept.
func (q *Query) Parse(msg []byte) Verdict {
	q.reset()
	if len(msg) < HeaderLen {
		return Drop
	}
	q.ID = binary.BigEndian.Uint16(msg)
	q.Flags = binary.BigEndian.Uint16(msg[2:])
	if q.Flags&FlagQR != 0 {
		return Drop
	}
	q.verdict = q.parse(msg)
	if q.verdict == Accept {
		q.setKey()
	}
	return q.verdict
}

func (q *Query) reset() {
	q.ID, q.Flags, q.Name, q.Type, q.Class, q.End = 0, 0, nil, 0, 0, HeaderLen
	q.EDNS, q.UDPSize, q.Version, q.DO = false, MinUDP, 0, false
	q.Cookie, q.ECS, q.Keepalive, q.Padding, q.NSID = nil, false, false, false, false
	q.verdict, q.cacheable, q.keyLen = Drop, false, 0
}

func (q *Query) parse(msg []byte) Verdict {
	counts := binary.BigEndian.Uint64(msg[4:])
	if q.Flags&opcodeMask != 0 {
		// The sections mean other things there (UPDATE's zone, DSO's
		// none): only a plain question is read, to be echoed.
		if counts>>48 == 1 {
			q.question(msg)
		}
		return NotImp
	}
	if counts>>48 != 1 || !q.question(msg) {
		return FormErr
	}
	switch counts {
	case countsPlain:
		if len(msg) != q.End {
			return FormErr
		}
	case countsOne:
		if v := q.additional(msg, q.End, 1); v != Accept {
			return v
		}
	default:
		if v := q.records(msg, counts); v != Accept {
			return v
		}
	}
	return q.judge()
}

// question reads the question at HeaderLen and reports whether it is one.
func (q *Query) question(msg []byte) bool {
	b := msg[HeaderLen:]
	n := nameLen(b)
	if n == 0 || len(b) < n+4 {
		return false
	}
	q.Name = b[:n:n]
	tc := binary.BigEndian.Uint32(b[n:])
	q.Type, q.Class = Type(tc>>16), Class(tc&0xffff)
	q.End = HeaderLen + n + 4
	return true
}

// records handles the odd request with more than an OPT behind the question.
// Answer and authority records make no sense in a QUERY, but for the SOA of an
// IXFR (RFC 1995 section 3), which is refused anyway.
func (q *Query) records(msg []byte, counts uint64) Verdict {
	an, ns, ar := int(counts>>32&0xffff), int(counts>>16&0xffff), int(counts&0xffff)
	if an != 0 || (ns != 0 && q.Type != TypeIXFR) {
		return FormErr
	}
	off := q.End
	for range ns {
		_, _, next, ok := skipRecord(msg, off)
		if !ok {
			return FormErr
		}
		off = next
	}
	return q.additional(msg, off, ar)
}

// additional reads n records from off to the end of msg. Records that are not
// understood are ignored.
func (q *Query) additional(msg []byte, off, n int) Verdict {
	signed := false
	for range n {
		t, head, next, ok := skipRecord(msg, off)
		if !ok {
			return FormErr
		}
		switch t {
		case TypeOPT:
			// RFC 6891 section 6.1.1 and 6.1.2: one, owned by the root.
			if q.EDNS || msg[off] != 0 || !q.opt(msg[head:next]) {
				q.EDNS = false
				return FormErr
			}
		case TypeTSIG:
			signed = true
		}
		off = next
	}
	if off != len(msg) {
		return FormErr
	}
	if q.Version != 0 {
		return BadVers
	}
	if signed {
		return NotAuth
	}
	return Accept
}

// judge decides on a well-formed question by type and class.
func (q *Query) judge() Verdict {
	switch q.Type {
	case TypeAXFR, TypeIXFR:
		return Refused
	case TypeOPT, TypeTSIG: // never a question: RFC 6891 section 6.1.1, RFC 8945 section 4.2
		return FormErr
	case TypeTKEY, TypeMAILA, TypeMAILB:
		return NotImp
	}
	if q.Class == ClassCH {
		return Refused // version.bind and the like are nobody's business
	}
	return Accept
}

func (q *Query) setKey() {
	n := len(q.Name)
	Fold(q.key[:n], q.Name)
	t := q.key[n : n+keyTrailer]
	binary.BigEndian.PutUint16(t, uint16(q.Type))
	binary.BigEndian.PutUint16(t[2:], uint16(q.Class))
	t[4] = keyBits(q.Flags, q.DO)
	q.keyLen = n + keyTrailer

	q.cacheable = KeyCacheable(q.Key()) && !q.ECS
}
