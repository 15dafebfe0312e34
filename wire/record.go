package wire

import "encoding/binary"

// recordFixed is the length of what lies between a record's owner and its
// RDATA: type, class, TTL, RDLENGTH (RFC 1035 section 4.1.3).
const recordFixed = 10

// skipRecord reads the record at off without looking into its RDATA and
// without following a pointer: head is where its fixed part begins (type), next
// where the next record does.
func skipRecord(msg []byte, off int) (t Type, head, next int, ok bool) {
	head, ok = skipName(msg, off)
	if !ok || len(msg)-head < recordFixed {
		return 0, 0, 0, false
	}
	next = head + recordFixed + int(binary.BigEndian.Uint16(msg[head+8:]))
	if next > len(msg) {
		return 0, 0, 0, false
	}
	return Type(binary.BigEndian.Uint16(msg[head:])), head, next, true
}

// skipName returns the offset behind the name at off. A pointer must point
// backwards and not into the header; it is not followed.
func skipName(msg []byte, off int) (next int, ok bool) {
	start := off
	for off < len(msg) && off-start < MaxName {
		c := int(msg[off])
		switch {
		case c == 0:
			return off + 1, true
		case c <= MaxLabel:
			off += c + 1
		case c >= 0xc0:
			if off+2 > len(msg) {
				return 0, false
			}
			to := int(binary.BigEndian.Uint16(msg[off:])) & 0x3fff
			return off + 2, to >= HeaderLen && to < start
		default: // 01 and 10: never standardised (RFC 6891 section 5)
			return 0, false
		}
	}
	return 0, false
}
