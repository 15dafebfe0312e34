package wire

import (
	"bytes"
	"encoding/binary"
)

// A key names everything that decides what an answer is: folded qname, type,
// class, and one octet of the bits DO, CD and RD. Transport, size and the rest
// of EDNS are not in it: they are settled when the reply is built.
//
// An upstream query is a function of the key alone, so whoever holds a key can
// ask again (a prefetch, a flight for many askers).

const (
	keyTrailer = 5 // type, class, bits

	keyDO byte = 1 << 0
	keyCD byte = 1 << 1
	keyRD byte = 1 << 2
)

// MaxKey is the length of the longest key.
const MaxKey = MaxName + keyTrailer

// AppendKey appends the key of a question to dst. name is an uncompressed
// name in any case; of flags RD and CD count.
func AppendKey(dst, name []byte, t Type, c Class, flags uint16, do bool) []byte {
	at := len(dst)
	dst = append(dst, name...)
	Fold(dst[at:], name)
	return append(dst, byte(t>>8), byte(t), byte(c>>8), byte(c), keyBits(flags, do))
}

func keyBits(flags uint16, do bool) byte {
	var b byte
	if do {
		b |= keyDO
	}
	if flags&FlagCD != 0 {
		b |= keyCD
	}
	if flags&FlagRD != 0 {
		b |= keyRD
	}
	return b
}

// KeyName returns the folded name in a key, as a slice of it; nil for what is
// too short to be one.
func KeyName(key []byte) []byte {
	if len(key) <= keyTrailer {
		return nil
	}
	return key[:len(key)-keyTrailer]
}

// KeyType returns the type in a key.
func KeyType(key []byte) Type {
	if len(key) <= keyTrailer {
		return 0
	}
	return Type(binary.BigEndian.Uint16(key[len(key)-5:]))
}

// KeyClass returns the class in a key.
func KeyClass(key []byte) Class {
	if len(key) <= keyTrailer {
		return 0
	}
	return Class(binary.BigEndian.Uint16(key[len(key)-3:]))
}

// KeyFlags returns RD and CD, as flags of the header, and DO of a key.
func KeyFlags(key []byte) (flags uint16, do bool) {
	if len(key) <= keyTrailer {
		return 0, false
	}
	b := key[len(key)-1]
	if b&keyRD != 0 {
		flags |= FlagRD
	}
	if b&keyCD != 0 {
		flags |= FlagCD
	}
	return flags, b&keyDO != 0
}

// KeyCacheable reports whether answers may be kept under a key. Not those to
//   - RD=0, which asks what the server knows by itself, not what it can find out;
//   - a name with a zero octet in a label, which reads as another, shorter name
//     to whoever turns names into C strings;
//   - a class other than IN, type 0 and the range of meta types, ANY included
//     (RFC 6895 section 3.1, RFC 8482).
func KeyCacheable(key []byte) bool {
	n := len(key) - keyTrailer
	if n < 1 {
		return false
	}
	b := key[n : n+keyTrailer]
	t := binary.BigEndian.Uint16(b)
	meta := t == 0 || (t >= 128 && t <= 255)
	// Every length octet but the last is above zero, so a zero octet before
	// the end lies within a label.
	return b[4]&keyRD != 0 && !meta && Class(binary.BigEndian.Uint16(b[2:])) == ClassIN && bytes.IndexByte(key[:n], 0) == n-1
}

// AppendUpstream appends the query for a key to dst, with ID 0: whoever sends
// it draws the ID (SetMsgID). It carries an OPT of its own, as EDNS is hop by
// hop (RFC 6891 section 6.2.6): size MaxUDP, version 0, DO as in the key, no
// option, hence no cookie (RFC 7873) and no ECS (RFC 7871) of a client. RD and
// CD are the key's. AD is always set: it asks for the AD bit in the response
// (RFC 6840 section 5.7), which is then shown to those clients that asked for
// it. The name is folded.
func AppendUpstream(dst, key []byte) []byte {
	flags, do := KeyFlags(key)
	return AppendQuery(dst, flags|FlagAD, KeyName(key), KeyType(key), KeyClass(key), do)
}

// AppendQuery appends a query with ID 0, the given flags and an OPT (size
// MaxUDP, version 0) to dst. name is an uncompressed name and is copied as it
// is.
func AppendQuery(dst []byte, flags uint16, name []byte, t Type, c Class, do bool) []byte {
	var doBit byte
	if do {
		doBit = 0x80
	}
	dst = append(dst, 0, 0, byte(flags>>8), byte(flags), 0, 1, 0, 0, 0, 0, 0, 1)
	dst = append(dst, name...)
	dst = append(dst, byte(t>>8), byte(t), byte(c>>8), byte(c))
	return append(dst, 0, 0, byte(TypeOPT), MaxUDP>>8, MaxUDP&0xff, 0, 0, doBit, 0, 0, 0)
}
