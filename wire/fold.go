package wire

import "encoding/binary"

const (
	swarOnes = 0x0101010101010101
	swarHigh = 0x8080808080808080
)

// Fold copies name to dst with ASCII letters in lower case, eight bytes at a
// time (RFC 4343: no other byte has a case). It may be given a whole wire name,
// or question, length octets included: they are at most 63, below 'A'. dst
// must be at least as long as name and may be the very same slice, but must
// not overlap it in any other way.
func Fold(dst, name []byte) {
	n := len(name)
	dst = dst[:n]
	if n < 8 {
		for i, c := range name {
			dst[i] = foldByte(c)
		}
		return
	}
	i := 0
	for ; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(dst[i:], fold8(binary.LittleEndian.Uint64(name[i:])))
	}
	if i < n {
		// The last eight bytes once more: folding twice changes nothing.
		i = n - 8
		binary.LittleEndian.PutUint64(dst[i:], fold8(binary.LittleEndian.Uint64(name[i:])))
	}
}

// fold8 lower-cases eight bytes. Added to the low seven bits, 0x3f carries into
// the high bit from 'A' on and 0x25 from behind 'Z' on; bytes with the high bit
// set are no letters. The mark of a letter, moved right by two, is 0x20.
func fold8(x uint64) uint64 {
	low := x &^ swarHigh
	fromA := low + (0x80-'A')*swarOnes
	behindZ := low + (0x80-'Z'-1)*swarOnes
	letter := fromA &^ behindZ &^ x & swarHigh
	return x | letter>>2
}

func foldByte(c byte) byte {
	if c-'A' <= 'Z'-'A' {
		return c | 0x20
	}
	return c
}

// equalFold reports whether a and b are equal but for the case of ASCII
// letters.
func equalFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for len(a) >= 8 && len(b) >= 8 {
		if fold8(binary.LittleEndian.Uint64(a)) != fold8(binary.LittleEndian.Uint64(b)) {
			return false
		}
		a, b = a[8:], b[8:]
	}
	for i, c := range a {
		if foldByte(c) != foldByte(b[i]) {
			return false
		}
	}
	return true
}
