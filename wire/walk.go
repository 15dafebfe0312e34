package wire

import "encoding/binary"

func (a *Answer) mark(off int) {
	if off < maxPointer {
		a.labels[off/64] |= 1 << (off % 64)
	}
}

func (a *Answer) marked(off int) bool {
	return off < maxPointer && a.labels[off/64]>>(off%64)&1 != 0
}

// walkName checks the name at off, which must end before end, with all it
// points to, and returns the offset behind it. Pointers must go to a name that
// was checked before this one began.
func (a *Answer) walkName(msg []byte, off, end int) (next int, ok bool) {
	msg = msg[:end]
	start, n := off, 1 // n: the length of the whole name, root included
	for uint(off) < uint(len(msg)) && n <= MaxName {
		c := int(msg[off])
		switch {
		case c == 0:
			a.mark(off)
			return off + 1, true
		case c <= MaxLabel:
			a.mark(off)
			n += c + 1
			off += c + 1
		case c >= 0xc0:
			if off+2 > len(msg) {
				return 0, false
			}
			to := int(binary.BigEndian.Uint16(msg[off:])) & (maxPointer - 1)
			if to >= start || !a.marked(to) {
				return 0, false
			}
			rest, ok := expandedLen(msg, to)
			if !ok || n-1+rest > MaxName {
				return 0, false
			}
			a.mark(off)
			a.pointed = a.pointed || to >= a.base
			return off + 2, true
		default:
			return 0, false
		}
	}
	return 0, false
}

// target follows the pointers at off to a label or the root. The name at off
// has been checked.
func target(msg []byte, off int) int {
	for msg[off] >= 0xc0 {
		off = int(binary.BigEndian.Uint16(msg[off:])) & (maxPointer - 1)
	}
	return off
}

// maxPointers bounds the pointers in one name, as a name has at most 127 labels
// and none needs more than one each. Chains of thousands would be legal, finite,
// and slow.
const maxPointers = 127

// expandedLen returns the length, without compression, of a checked name, ok
// being false if it takes too many pointers to get to its end.
func expandedLen(msg []byte, off int) (n int, ok bool) {
	n = 1
	for left := maxPointers - 1; ; {
		c := int(msg[off])
		switch {
		case c == 0:
			return n, true
		case c >= 0xc0:
			if left--; left < 0 {
				return 0, false
			}
			off = int(binary.BigEndian.Uint16(msg[off:])) & (maxPointer - 1)
		default:
			n += c + 1
			off += c + 1
		}
	}
}

// equalNames reports whether two checked names are equal, case apart.
func equalNames(msg []byte, i, j int) bool {
	for {
		i, j = target(msg, i), target(msg, j)
		if i == j {
			return true
		}
		n := int(msg[i])
		if n != int(msg[j]) {
			return false
		}
		if n == 0 {
			return true
		}
		if !equalFold(msg[i+1:i+1+n], msg[j+1:j+1+n]) {
			return false
		}
		i += n + 1
		j += n + 1
	}
}

// walkRecord checks the record whose fixed part is at head, with the names in
// its RDATA, and returns the offset behind it.
func (a *Answer) walkRecord(msg []byte, head int) (next int, ok bool) {
	if len(msg)-head < recordFixed {
		return 0, false
	}
	off := head + recordFixed
	next = off + int(binary.BigEndian.Uint16(msg[head+8:]))
	if next > len(msg) {
		return 0, false
	}
	t := Type(binary.BigEndian.Uint16(msg[head:]))
	switch t {
	case TypeA, TypeAAAA:
		size := 4
		if t == TypeAAAA {
			size = 16
		}
		in := Class(binary.BigEndian.Uint16(msg[head+2:])) == ClassIN
		return next, !in || next-off == size
	case TypeNAPTR:
		if off, ok = skipStrings(msg[:next], off+4, 3); !ok {
			return 0, false
		}
	}
	shape, named := rdataShape(t)
	if !named {
		return next, true
	}
	off += shape.before
	for range shape.names {
		if off >= next {
			return 0, false
		}
		if off, ok = a.walkName(msg, off, next); !ok {
			return 0, false
		}
	}
	if shape.after < 0 {
		return next, true
	}
	return next, off+shape.after == next
}

// skipStrings skips n character-strings (RFC 1035 section 3.3).
func skipStrings(msg []byte, off, n int) (int, bool) {
	for range n {
		if off >= len(msg) {
			return 0, false
		}
		off += int(msg[off]) + 1
	}
	return off, off <= len(msg)
}

// shape says where names are in the RDATA of a type: octets before them, how
// many, and octets behind them, -1 for any number.
type shape struct{ before, names, after int }

// rdataShape returns the shape of the types that have names: those of RFC 1035,
// which may be compressed, and the later ones, which should not be (RFC 3597
// section 4) but sometimes are, and which compressed names point at.
func rdataShape(t Type) (shape, bool) {
	switch t {
	case TypeNS, TypeMD, TypeMF, TypeCNAME, TypeMB, TypeMG, TypeMR, TypePTR, TypeNSAPPTR, TypeDNAME, TypeNAPTR:
		return shape{0, 1, 0}, true // NAPTR: what is in front has been skipped
	case TypeSOA:
		return shape{0, 2, 20}, true
	case TypeMINFO, TypeRP, TypeTALINK:
		return shape{0, 2, 0}, true
	case TypeMX, TypeAFSDB, TypeRT, TypeKX, TypeLP:
		return shape{2, 1, 0}, true
	case TypePX:
		return shape{2, 2, 0}, true
	case TypeSRV:
		return shape{6, 1, 0}, true
	case TypeSIG, TypeRRSIG:
		return shape{18, 1, -1}, true
	case TypeNXT, TypeNSEC:
		return shape{0, 1, -1}, true
	case TypeSVCB, TypeHTTPS:
		return shape{2, 1, -1}, true
	}
	return shape{}, false
}
