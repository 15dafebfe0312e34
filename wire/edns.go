package wire

import "encoding/binary"

// Options of an OPT, IANA's DNS EDNS0 option codes.
const (
	optionNSID      = 3  // RFC 5001
	optionECS       = 8  // RFC 7871
	optionCookie    = 10 // RFC 7873
	optionKeepalive = 11 // RFC 7828
	optionPadding   = 12 // RFC 7830
	optionEDE       = 15 // RFC 8914
)

// optLen is the length of an OPT without options, root owner included.
const optLen = 1 + recordFixed

// opt reads the OPT of a request; rr begins at its type and ends with its
// RDATA. It reports whether the options are well-formed. Those of an unknown
// version are not looked at: BADVERS says it all.
func (q *Query) opt(rr []byte) bool {
	q.EDNS = true
	q.UDPSize = max(MinUDP, binary.BigEndian.Uint16(rr[2:])) // less means 512: RFC 6891 section 6.2.3
	q.Version = rr[5]
	if q.Version != 0 {
		return true
	}
	q.DO = rr[6]&0x80 != 0
	for rest := rr[recordFixed:]; len(rest) > 0; {
		code, body, next, ok := nextOption(rest)
		if !ok || !q.option(code, body) {
			return false
		}
		rest = next
	}
	return true
}

// nextOption splits the first option off rest, which is not empty.
func nextOption(rest []byte) (code uint16, body, next []byte, ok bool) {
	if len(rest) < 4 {
		return 0, nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(rest[2:]))
	if n > len(rest)-4 {
		return 0, nil, nil, false
	}
	return binary.BigEndian.Uint16(rest), rest[4 : 4+n], rest[4+n:], true
}

// option takes note of one option of a request and reports whether it is
// well-formed. Unknown ones are ignored (RFC 6891 section 6.1.2).
func (q *Query) option(code uint16, body []byte) bool {
	switch code {
	case optionCookie:
		// A client cookie of 8, then possibly a server cookie of 8 to
		// 32; else FORMERR (RFC 7873 section 5.2.2). Only the first counts.
		if len(body) != 8 && (len(body) < 16 || len(body) > 40) {
			return false
		}
		if q.Cookie == nil {
			q.Cookie = body
		}
	case optionECS:
		q.ECS = true
		scope, ok := ecs(body)
		return ok && scope == 0 // RFC 7871 section 7.1.2
	case optionKeepalive:
		// Clients send it empty; a value is the server's to give (RFC
		// 7828 section 3.2.1) and is ignored, as by UDP the whole is.
		q.Keepalive = q.Keepalive || len(body) == 0
	case optionPadding:
		q.Padding = true
	case optionNSID:
		q.NSID = true
	}
	return true
}

// ecs checks a client subnet option (RFC 7871 section 6): as many octets of
// address as the source prefix needs, the bits behind it zero.
func ecs(body []byte) (scope uint8, ok bool) {
	if len(body) < 4 {
		return 0, false
	}
	family, source, scope := binary.BigEndian.Uint16(body), int(body[2]), body[3]
	addr := body[4:]
	limit := 0 // family 0 or unknown: only with an empty prefix
	switch family {
	case 1:
		limit = 32
	case 2:
		limit = 128
	}
	if source > limit || int(scope) > limit || len(addr) != (source+7)/8 {
		return 0, false
	}
	if source%8 != 0 && addr[len(addr)-1]<<(source%8) != 0 {
		return 0, false
	}
	return scope, true
}
