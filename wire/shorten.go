package wire

import "encoding/binary"

// shorten has the tail spell owner names once only. CoreDNS compresses no more
// than it must to stay within what its client takes, and we take more than
// most: what it sends us whole and uncompressed would be cut for a client that
// had heard all of it from CoreDNS itself. A pointer to the question also has
// the name come back in the case in which each client asks.
//
// It moves records, into a buffer of a's own, for the message is the caller's. A
// message in which something points behind the question stays as it is: who
// compresses at all compresses owners.
func (a *Answer) shorten(msg []byte) {
	if a.pointed || len(a.TTLs) == 0 {
		return
	}
	question := msg[HeaderLen : HeaderLen+nameLen(msg[HeaderLen:])]
	var names [maxHops]struct{ at, n int } // spelled out in out; at counts from the start of the message
	known := 0
	out := a.short[:0]
	from := a.base
	for i := range a.TTLs {
		head := a.head(i)
		end := head + recordFixed + int(binary.BigEndian.Uint16(msg[head+8:]))
		owner, to := msg[from:head], 0
		if len(owner) > 2 && equalFold(owner, question) { // the root is shorter than a pointer
			to = HeaderLen
		}
		for _, n := range names[:known] {
			if s := n.at - a.base; to == 0 && string(out[s:s+n.n]) == string(owner) {
				to = n.at
			}
		}
		spell := func(at, n int) {
			if n > 2 && at < maxPointer && known < len(names) {
				names[known].at, names[known].n = at, n
				known++
			}
		}
		if to != 0 {
			out = binary.BigEndian.AppendUint16(out, 0xc000|uint16(to))
		} else {
			spell(a.base+len(out), len(owner))
			out = append(out, owner...)
		}
		if Type(binary.BigEndian.Uint16(msg[head:])) == TypeCNAME {
			spell(a.base+len(out)+recordFixed, end-head-recordFixed)
		}
		a.TTLs[i].Off = uint16(len(out) + 4)
		out = append(out, msg[head:end]...)
		from = end
	}
	a.short = out
	a.Tail = out[:len(out):len(out)]
}
