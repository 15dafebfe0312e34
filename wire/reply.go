package wire

import "encoding/binary"

// NoTTLCap is the TTLCap that caps nothing.
const NoTTLCap uint32 = 1<<32 - 1

// Reply is what a reply is built from: counts and bytes of the records, and
// how to change them on the way. It is only read, so one Reply may serve many
// goroutines; who wants other settings copies the struct.
type Reply struct {
	Flags      uint16 // AA, TC and AD count
	RCode      RCode
	AN, NS, AR uint16
	Tail       []byte // the records; must not overlap the request
	TTLs       []TTL  // one for each record, in order
	Age        uint32 // seconds to take off every TTL
	TTLCap     uint32 // no TTL above it: 30 for a stale answer, else NoTTLCap. 0 makes every TTL 0
	// Rotate turns the first RRset of addresses by so many records: a fixed
	// order would send every client to the same endpoint.
	Rotate uint32
	// Keepalive is TCP's idle timeout in units of 100 ms, sent to who asked
	// for it; 0 is not sent. By UDP it must be 0 (RFC 7828 section 3.2.2).
	Keepalive uint16
	EDE       EDE
}

// Options of our OPT, header included.
const (
	edeLen       = 4 + 2
	keepaliveLen = 4 + 2
)

// AppendReply builds the reply to an accepted request over the request: msg
// is the message that q was parsed from, with room behind it (its capacity).
// It returns the reply, which begins where msg does. limit is UDPLimit for UDP
// and MaxMsg for TCP; room for less counts as a lower limit. It never
// allocates.
//
// ID, opcode, RD and CD are the request's, the question is untouched; QR and RA
// are set; AA and TC are r's; AD is r's for clients that set AD or DO (RFC 6840
// section 5.8). An OPT is sent only to who sent one. TTLs become what is left
// of them, at most TTLCap.
//
// What does not fit is left off in whole records, last ones first, with TC set:
// some stubs never ask again by TCP and live off what is there. Additional
// records, if only they are too much, are left off together and without TC (RFC
// 2181 section 9).
func (q *Query) AppendReply(msg []byte, r *Reply, limit int) []byte {
	limit = max(min(limit, cap(msg)), q.End)
	msg = msg[:limit]
	flags := q.flags(r.RCode) | r.Flags&(FlagAA|FlagTC)
	if r.Flags&FlagAD != 0 && (q.DO || q.AD()) {
		flags |= FlagAD
	}
	an, ns, ar, tail, ttls := r.AN, r.NS, r.AR, r.Tail, r.TTLs
	if room := limit - q.End - q.optSize(r.EDE, r.Keepalive); len(tail) > room {
		var n int
		ttls, n = fit(r, room)
		an, ns, ar = sections(ttls)
		tail = tail[:n]
		if an < r.AN || ns < r.NS {
			flags |= FlagTC
		}
	}
	body := msg[q.End:]
	copy(body, tail)
	for i := range ttls {
		t := &ttls[i]
		var ttl uint32
		if t.TTL > r.Age {
			ttl = min(t.TTL-r.Age, r.TTLCap)
		}
		binary.BigEndian.PutUint32(body[t.Off:], ttl)
	}
	if r.Rotate != 0 {
		rotate(body, r, ttls)
	}
	end := q.End + len(tail)
	n := q.putOPT(msg[end:], r.RCode, r.EDE, r.Keepalive)
	if n > 0 {
		ar++
	}
	q.putHeader(msg, flags, an, ns, ar)
	return msg[:end+n]
}

// AppendError builds a reply without records over the request, whatever Parse
// made of it: the question is repeated if it could be read, else there is
// none. The result is empty, and nothing must be sent, when the request was
// none (Drop). msg is as for AppendReply; the reply fits in every UDP datagram.
func (q *Query) AppendError(msg []byte, rc RCode, ede EDE) []byte {
	if q.verdict == Drop || len(msg) < HeaderLen {
		return msg[:0]
	}
	msg = msg[:cap(msg)]
	n := q.putOPT(msg[q.End:], rc, ede, 0)
	var ar uint16
	if n > 0 {
		ar = 1
	}
	q.putHeader(msg, q.flags(rc), 0, 0, ar)
	return msg[:q.End+n]
}

// flags returns the flags of a reply but for AA, TC and AD. A code that needs
// the OPT's bits is SERVFAIL to who sent none.
func (q *Query) flags(rc RCode) uint16 {
	if rc > RCode(rcodeMask) && !q.EDNS {
		rc = RCodeServFail
	}
	return q.Flags&(opcodeMask|FlagRD|FlagCD) | FlagQR | FlagRA | uint16(rc)&rcodeMask
}

func (q *Query) putHeader(msg []byte, flags, an, ns, ar uint16) {
	h := msg[2:HeaderLen]
	binary.BigEndian.PutUint16(h, flags)
	var qd uint16
	if q.End > HeaderLen {
		qd = 1
	}
	binary.BigEndian.PutUint64(h[2:], uint64(qd)<<48|uint64(an)<<32|uint64(ns)<<16|uint64(ar))
}

// optSize returns how long our OPT is going to be, 0 for none.
func (q *Query) optSize(ede EDE, keepalive uint16) int {
	if !q.EDNS {
		return 0
	}
	n := optLen
	if ede != EDENone {
		n += edeLen
	}
	if q.Keepalive && keepalive != 0 {
		n += keepaliveLen
	}
	return n
}

// putOPT writes our OPT to b, without options if there is no room for them,
// not at all if there is none for itself, and returns its length.
func (q *Query) putOPT(b []byte, rc RCode, ede EDE, keepalive uint16) int {
	if !q.EDNS || len(b) < optLen {
		return 0
	}
	size := q.optSize(ede, keepalive)
	if len(b) < size {
		size, ede, keepalive = optLen, EDENone, 0
	}
	b = b[:size]
	_ = b[optLen-1] // one bounds check for all of it
	b[0] = 0
	binary.BigEndian.PutUint16(b[1:], uint16(TypeOPT))
	binary.BigEndian.PutUint16(b[3:], MaxUDP)
	b[5], b[6], b[7], b[8] = byte(rc>>4), 0, 0, 0
	if q.DO {
		b[7] = 0x80 // echoed: RFC 3225 section 3
	}
	binary.BigEndian.PutUint16(b[9:], uint16(size-optLen))
	at := optLen
	if ede != EDENone {
		binary.BigEndian.PutUint16(b[at:], optionEDE)
		binary.BigEndian.PutUint16(b[at+2:], 2)
		binary.BigEndian.PutUint16(b[at+4:], uint16(ede))
		at += edeLen
	}
	if q.Keepalive && keepalive != 0 {
		binary.BigEndian.PutUint16(b[at:], optionKeepalive)
		binary.BigEndian.PutUint16(b[at+2:], 2)
		binary.BigEndian.PutUint16(b[at+4:], keepalive)
	}
	return size
}

// fit returns the TTLs of the leading records that take at most room octets,
// and their length. Either all answer and authority records are among them, and
// no additional one, or some are missing.
func fit(r *Reply, room int) (ttls []TTL, n int) {
	for i := range r.TTLs {
		t := &r.TTLs[i]
		end := int(t.Off) + 6 + int(binary.BigEndian.Uint16(r.Tail[t.Off+4:]))
		if end > room || t.Section == SectionAdditional {
			return r.TTLs[:i], n
		}
		n = end
	}
	return r.TTLs, n
}

// sections counts the records per section.
func sections(ttls []TTL) (an, ns, ar uint16) {
	for i := range ttls {
		switch ttls[i].Section {
		case SectionAnswer:
			an++
		case SectionAuthority:
			ns++
		case SectionAdditional:
			ar++
		}
	}
	return an, ns, ar
}

// rotate writes the addresses of the set marked Spin into body, turned by
// r.Rotate. Only RDATA moves: it has the same length everywhere, holds no
// name, and nothing points into it. The set is taken whole, so that also a
// reply cut short shows all of it over time; ttls are those that are kept.
func rotate(body []byte, r *Reply, ttls []TTL) {
	first, n := 0, 0
	for i := range r.TTLs {
		if r.TTLs[i].Spin {
			n++
		} else if n == 0 {
			first++
		} else {
			break
		}
	}
	if n < 2 || first >= len(ttls) {
		return
	}
	set := r.TTLs[first : first+n]
	size := int(binary.BigEndian.Uint16(r.Tail[set[0].Off+4:]))
	from := int(r.Rotate % uint32(n))
	for i := range min(n, len(ttls)-first) {
		dst, src := int(set[i].Off)+6, int(set[from].Off)+6
		copy(body[dst:dst+size], r.Tail[src:src+size])
		if from++; from == n {
			from = 0
		}
	}
}
