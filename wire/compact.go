package wire

import "encoding/binary"

// Compact shortens the tail: an owner that repeats the question's name, the owner
// before it, or the target of the CNAME before it becomes a pointer. A tail that
// is compressed already stays as it is.
//
// It is for clients that take 512 octets. miekg/dns, and so CoreDNS, compresses
// only what is too long otherwise; asked with the larger size that we offer it
// leaves names as they are, and of 25 addresses that it would have sent to such a
// client 11 would fit. The cache holds more that way, too.
//
// msg is what Parse was given. It is changed, and is no message any more.
func (a *Answer) Compact(msg []byte) {
	if a.rigid {
		return
	}
	read, write := a.base, a.base
	last := HeaderLen // the name that the next owner is likely to repeat
	for i := range a.TTLs {
		head := a.head(i)
		next := head + recordFixed + int(binary.BigEndian.Uint16(msg[head+8:]))
		cname := Type(binary.BigEndian.Uint16(msg[head:])) == TypeCNAME
		to := last
		if equalNames(msg, read, HeaderLen) {
			to = HeaderLen
		}
		if head-read > 2 && to < maxPointer && equalNames(msg, read, to) {
			binary.BigEndian.PutUint16(msg[write:], 0xc000|uint16(to))
			write, last = write+2, to
		} else {
			last = write
			write += copy(msg[write:], msg[read:head])
		}
		a.TTLs[i].Off = uint16(write + 4 - a.base)
		if cname {
			last = write + recordFixed
		}
		write += copy(msg[write:], msg[head:next])
		read = next
	}
	a.Tail = msg[a.base:write:write]
}
