package wire

import "errors"

// Why a text is not a name.
var (
	ErrNameEmpty    = errors.New("name is empty")
	ErrLabelEmpty   = errors.New("name has an empty label")
	ErrLabelTooLong = errors.New("name has a label of more than 63 octets")
	ErrNameTooLong  = errors.New("name has more than 255 octets")
	ErrNameEscape   = errors.New("name has an incomplete or out-of-range escape")
)

// nameLen returns the length of the uncompressed name at the start of b, root
// included, or 0 if there is none: cut off, compressed, or too long.
func nameLen(b []byte) int {
	if len(b) > MaxName {
		b = b[:MaxName]
	}
	for i := 0; uint(i) < uint(len(b)); { // unsigned: no bounds check
		c := int(b[i])
		if c == 0 {
			return i + 1
		}
		if c > MaxLabel {
			return 0
		}
		i += c + 1
	}
	return 0
}

// Parent returns name, an uncompressed name, without its first label; the
// root, and what is no name, has none: nil.
func Parent(name []byte) []byte {
	if len(name) == 0 || name[0] == 0 || name[0] > MaxLabel || int(name[0])+1 >= len(name) {
		return nil
	}
	return name[int(name[0])+1:]
}

// AppendName appends the wire form of a name in presentation form (RFC 1035
// section 5.1: \X and \DDD) to dst. The name is taken as absolute; the final
// dot is optional. Case is kept. On an error (ErrNameEmpty, ...) dst comes
// back as it was.
func AppendName(dst []byte, text string) ([]byte, error) {
	base := len(dst)
	if text == "" {
		return dst, ErrNameEmpty
	}
	if text == "." {
		return append(dst, 0), nil
	}
	label := base // where the current label's length octet lies
	out := append(dst, 0)
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '.' {
			if len(out) == label+1 {
				return dst, ErrLabelEmpty
			}
			out[label] = byte(len(out) - label - 1)
			label = len(out)
			out = append(out, 0)
			continue
		}
		if c == '\\' {
			v, n := unescape(text[i+1:])
			if n == 0 {
				return dst, ErrNameEscape
			}
			c = v
			i += n
		}
		if len(out)-label > MaxLabel {
			return dst, ErrLabelTooLong
		}
		out = append(out, c)
		if len(out)-base >= MaxName {
			return dst, ErrNameTooLong
		}
	}
	if len(out) > label+1 { // no final dot
		out[label] = byte(len(out) - label - 1)
		out = append(out, 0)
	}
	return out, nil
}

// unescape reads what follows a backslash and returns the octet and how many
// characters it took, 0 if it is none.
func unescape(s string) (c byte, n int) {
	if s == "" {
		return 0, 0
	}
	if !isDigit(s[0]) {
		return s[0], 1
	}
	if len(s) < 3 || !isDigit(s[1]) || !isDigit(s[2]) {
		return 0, 0
	}
	v := int(s[0]-'0')*100 + int(s[1]-'0')*10 + int(s[2]-'0')
	if v > 255 {
		return 0, 0
	}
	return byte(v), 3
}

func isDigit(c byte) bool { return c-'0' <= 9 }

// NameString returns the presentation form of an uncompressed name, with the
// final dot. It is safe to print: everything but visible ASCII comes as \DDD,
// so that no name from the network can steer a terminal or break a log line.
// What is no name is printed as far as it is one, followed by "<malformed>".
func NameString(name []byte) string {
	var buf [MaxName]byte
	return string(AppendNameString(buf[:0], name))
}

// AppendNameString appends what NameString returns.
func AppendNameString(dst, name []byte) []byte {
	if len(name) == 1 && name[0] == 0 {
		return append(dst, '.')
	}
	for i := 0; i < len(name); {
		n := int(name[i])
		if n == 0 && i == len(name)-1 {
			return dst
		}
		if n == 0 || n > MaxLabel || i+1+n > len(name) {
			break
		}
		for _, c := range name[i+1 : i+1+n] {
			dst = appendEscaped(dst, c)
		}
		dst = append(dst, '.')
		i += n + 1
	}
	return append(dst, "<malformed>"...)
}

func appendEscaped(dst []byte, c byte) []byte {
	switch {
	case c == '.' || c == '\\':
		return append(dst, '\\', c)
	case c <= ' ' || c >= 0x7f:
		return append(dst, '\\', '0'+c/100, '0'+c/10%10, '0'+c%10)
	}
	return append(dst, c)
}
