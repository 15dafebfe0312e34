// Package wire reads and writes DNS packets as bytes.
//
// A request is looked at in place (Query), what an upstream said is looked at
// in place (Answer), and a reply is "the request plus a stored tail" (Reply):
// the client's ID and question bytes, case included, stay where they are, the
// tail is appended behind them and flags, counts and TTLs are patched. Since a
// cached answer is only ever given to a question of the same length and the
// same labels, the compression pointers within a tail stay valid as they are.
//
// Nothing on the way from Parse to AppendReply allocates, locks or looks at a
// clock, and no input makes it panic. A Query or an Answer belongs to one
// goroutine at a time; a Reply is only read and may be shared.
//
// What it does not do: it opens no socket, keeps no answer, decides nothing
// about upstreams, validates no DNSSEC, and knows nothing of TCP's length
// prefix.
package wire

import "encoding/binary"

const (
	// HeaderLen is the length of the fixed header (RFC 1035 section 4.1.1).
	HeaderLen = 12
	// MaxName is the longest name in octets, length octets and root included
	// (RFC 1035 section 2.3.4).
	MaxName = 255
	// MaxLabel is the longest label in octets.
	MaxLabel = 63
	// MinUDP is what every client takes by UDP (RFC 1035 section 2.3.4) and
	// the least that an OPT can ask for (RFC 6891 section 6.2.3).
	MinUDP = 512
	// MaxUDP is the most that is ever sent by UDP: no path in use fragments
	// it (DNS flag day 2020; RFC 9715 recommends at most 1400).
	MaxUDP = 1232
	// MaxMsg is the longest message: TCP's length prefix has 16 bits.
	MaxMsg = 65535
)

// Flags of the header, as they lie in its second 16-bit word.
const (
	FlagQR uint16 = 1 << 15
	FlagAA uint16 = 1 << 10
	FlagTC uint16 = 1 << 9
	FlagRD uint16 = 1 << 8
	FlagRA uint16 = 1 << 7
	FlagZ  uint16 = 1 << 6
	FlagAD uint16 = 1 << 5
	FlagCD uint16 = 1 << 4

	opcodeMask uint16 = 0x7800
	rcodeMask  uint16 = 0x000f
)

// MsgID returns the ID of a message, 0 if it is shorter than a header.
func MsgID(msg []byte) uint16 {
	if len(msg) < HeaderLen {
		return 0
	}
	return binary.BigEndian.Uint16(msg)
}

// SetMsgID writes the ID of a message; a message shorter than a header is left
// alone.
func SetMsgID(msg []byte, id uint16) {
	if len(msg) >= HeaderLen {
		binary.BigEndian.PutUint16(msg, id)
	}
}

// MsgFlags returns the flags word of a message, 0 if it is shorter than a
// header.
func MsgFlags(msg []byte) uint16 {
	if len(msg) < HeaderLen {
		return 0
	}
	return binary.BigEndian.Uint16(msg[2:])
}

// Question returns the bytes of the only question of msg (name, type, class),
// or nil if msg does not hold exactly one well-formed, uncompressed one.
func Question(msg []byte) []byte {
	if len(msg) < HeaderLen || binary.BigEndian.Uint16(msg[4:]) != 1 {
		return nil
	}
	n := nameLen(msg[HeaderLen:])
	if n == 0 || len(msg) < HeaderLen+n+4 {
		return nil
	}
	return msg[HeaderLen : HeaderLen+n+4]
}

// IsReplyTo reports whether resp can be the response to query as far as RFC
// 5452 section 9.1 lets bytes tell: a response, the same ID, the same opcode
// and the same question (case apart). A failure that comes as a bare header,
// as old servers answer what they do not understand, counts as well. The
// caller has checked the source.
func IsReplyTo(resp, query []byte) bool {
	if len(resp) < HeaderLen || len(query) < HeaderLen || MsgID(resp) != MsgID(query) {
		return false
	}
	q := Question(query)
	return q != nil && matchQuestion(resp, q) != questionOther
}
