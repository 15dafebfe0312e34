package wire

import (
	"encoding/binary"
	"net/netip"
)

// Answers that are made here: for static hosts, localhost, names that must not
// exist, and ANY. They are built once, when configuration is read, and then
// given out by AppendReply like any other. Owners that are the qname are
// pointers to it, so the same reply serves any question.

// ownerQName is the compression pointer to the question's name.
const ownerQName = 0xc000 | HeaderLen

// maxSynthetic keeps a synthetic answer within what offsets and counts hold.
const maxSynthetic = 1000

// AddressReply returns the answer to an A or AAAA question: those of addrs
// that are of type t, at most 1000 of them. Without any it has no records: then
// NegativeReply is the right answer.
func AddressReply(t Type, addrs []netip.Addr, ttl uint32) Reply {
	r := Reply{TTLCap: NoTTLCap}
	for _, a := range addrs {
		a = a.Unmap()
		if (t == TypeA && a.Is4() || t == TypeAAAA && a.Is6()) && r.AN < maxSynthetic {
			r.add(ownerQName, t, ttl, a.AsSlice())
		}
	}
	for i := range r.TTLs {
		r.TTLs[i].Spin = true
	}
	return r
}

// NameReply returns the answer to a question for t, PTR or CNAME, with the
// uncompressed name target.
func NameReply(t Type, target []byte, ttl uint32) Reply {
	r := Reply{TTLCap: NoTTLCap}
	r.add(ownerQName, t, ttl, target)
	return r
}

// AnyReply returns the answer to a question of type ANY that RFC 8482 section
// 4.2 describes: an HINFO that says why.
func AnyReply(ttl uint32) Reply {
	r := Reply{TTLCap: NoTTLCap}
	r.add(ownerQName, TypeHINFO, ttl, []byte("\x07RFC8482\x00"))
	return r
}

// NegativeReply returns NXDOMAIN, or NODATA for RCodeNoError, with the SOA of
// zone, an uncompressed name which must be the qname or above it: without an
// SOA a stub's cache cannot keep it (RFC 2308 section 5).
func NegativeReply(rc RCode, zone []byte, ttl uint32) Reply {
	r := Reply{RCode: rc, TTLCap: NoTTLCap, NS: 1}
	r.Tail = append(r.Tail, zone...)
	at := len(r.Tail)
	r.Tail = append(r.Tail, 0, byte(TypeSOA), 0, byte(ClassIN))
	r.Tail = binary.BigEndian.AppendUint32(r.Tail, ttl)
	r.Tail = append(r.Tail, 0, 0)
	r.Tail = append(r.Tail, zone...)                          // MNAME
	r.Tail = append(r.Tail, "\x06nobody\x07invalid\x00"...)   // RNAME: RFC 2606 section 2
	for _, v := range [5]uint32{1, 3600, 1200, 604800, ttl} { // SERIAL ... MINIMUM
		r.Tail = binary.BigEndian.AppendUint32(r.Tail, v)
	}
	binary.BigEndian.PutUint16(r.Tail[at+8:], uint16(len(r.Tail)-at-recordFixed))
	r.TTLs = append(r.TTLs, TTL{Off: uint16(at + 4), Section: SectionAuthority, TTL: ttl})
	return r
}

// add appends an answer record of class IN.
func (r *Reply) add(owner uint16, t Type, ttl uint32, rdata []byte) {
	r.Tail = binary.BigEndian.AppendUint16(r.Tail, owner)
	r.Tail = append(r.Tail, byte(t>>8), byte(t), 0, byte(ClassIN))
	r.TTLs = append(r.TTLs, TTL{Off: uint16(len(r.Tail)), Section: SectionAnswer, TTL: ttl})
	r.Tail = binary.BigEndian.AppendUint32(r.Tail, ttl)
	r.Tail = binary.BigEndian.AppendUint16(r.Tail, uint16(len(rdata)))
	r.Tail = append(r.Tail, rdata...)
	r.AN++
}
