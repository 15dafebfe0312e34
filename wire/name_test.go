package wire

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// Red when: AppendName forgets to write the last label's length, or unescape
// accepts \256.
func TestAppendName(t *testing.T) {
	l63 := strings.Repeat("a", 63)
	longest := strings.Join([]string{l63, l63, l63, l63[:61]}, ".") // 255 octets on the wire
	tests := []struct {
		text string
		want string
		err  error
	}{
		{".", "\x00", nil},
		{"a", "\x01a\x00", nil},
		{"a.", "\x01a\x00", nil},
		{"WwW.Example.com", "\x03WwW\x07Example\x03com\x00", nil},
		{`a\.b.c`, "\x03a.b\x01c\x00", nil},
		{`a\000b\255`, "\x04a\x00b\xff\x00", nil},
		{`\\`, "\x01\\\x00", nil},
		{l63, "\x3f" + l63 + "\x00", nil},
		{longest, "\x3f" + l63 + "\x3f" + l63 + "\x3f" + l63 + "\x3d" + l63[:61] + "\x00", nil},
		{longest + ".", "\x3f" + l63 + "\x3f" + l63 + "\x3f" + l63 + "\x3d" + l63[:61] + "\x00", nil},
		{"", "", ErrNameEmpty},
		{"..", "", ErrLabelEmpty},
		{".a", "", ErrLabelEmpty},
		{"a..b", "", ErrLabelEmpty},
		{l63 + "a", "", ErrLabelTooLong},
		{longest + "a", "", ErrNameTooLong},
		{longest + ".a", "", ErrNameTooLong},
		{`a\`, "", ErrNameEscape},
		{`a\1`, "", ErrNameEscape},
		{`a\25x`, "", ErrNameEscape},
		{`a\256`, "", ErrNameEscape},
	}
	for _, tt := range tests {
		got, err := AppendName([]byte("#"), tt.text)
		if string(got) != "#"+tt.want || !errors.Is(err, tt.err) {
			t.Errorf("AppendName(%q) = %q, %v; want %q, %v", tt.text, got, err, "#"+tt.want, tt.err)
		}
	}
}

// Red when: appendEscaped prints 0x1b (or any octet that is not visible ASCII)
// as it is.
func TestNameStringIsSafeToPrint(t *testing.T) {
	tests := []struct{ name, want string }{
		{"\x00", "."},
		{"\x03WwW\x02eu\x00", "WwW.eu."},
		{"\x03a.b\x00", `a\.b.`},
		{"\x01\\\x00", `\\.`},
		{"\x05\x1b[31m\x00", `\027[31m.`},
		{"\x04\r\n\x00\x7f\x00", `\013\010\000\127.`},
		{"\x02\xc3\xa4\x00", `\195\164.`},
		{"\x03a b\x00", `a\032b.`},
		{"", "<malformed>"},
		{"\x03ab", "<malformed>"},
		{"\x01a", "a.<malformed>"},
		{"\x01a\x00\x01b\x00", "a.<malformed>"},
		{"\xc0\x0c", "<malformed>"},
	}
	for _, tt := range tests {
		if got := NameString([]byte(tt.name)); got != tt.want {
			t.Errorf("NameString(%q) = %q, want %q", tt.name, got, tt.want)
		}
	}
	for c := range 256 {
		for _, p := range NameString([]byte{1, byte(c), 0}) {
			if p <= ' ' || p >= 0x7f {
				t.Errorf("octet %#x is printed as %q", c, p)
			}
		}
	}
}

// Red when: Parent returns the label instead of what is behind it.
func TestParent(t *testing.T) {
	var got []string
	for n := mustName(t, "a.bc.d"); n != nil; n = Parent(n) {
		got = append(got, NameString(n))
	}
	if s := strings.Join(got, " "); s != "a.bc.d. bc.d. d. ." {
		t.Errorf("parents of a.bc.d. are %q", s)
	}
	for _, bad := range []string{"", "\x05ab", "\xc0\x0c", "\x02ab"} {
		if p := Parent([]byte(bad)); p != nil {
			t.Errorf("Parent(%q) = %q, want nil", bad, p)
		}
	}
}

// Red when: nameLen lets a name of 256 octets or a label of 64 pass.
func TestNameLen(t *testing.T) {
	l63 := append([]byte{63}, bytes.Repeat([]byte{'a'}, 63)...)
	long := func(last int) []byte {
		b := bytes.Repeat(l63, 3)
		b = append(b, byte(last))
		b = append(b, bytes.Repeat([]byte{'a'}, last)...)
		return append(b, 0)
	}
	tests := []struct {
		what string
		b    []byte
		want int
	}{
		{"root", []byte{0}, 1},
		{"root and more", []byte{0, 1, 2}, 1},
		{"255 octets", long(61), 255},
		{"256 octets", long(62), 0},
		{"label of 64", append([]byte{64}, make([]byte, 70)...), 0},
		{"pointer", []byte{0xc0, 12}, 0},
		{"cut off in a label", []byte{3, 'a', 'b'}, 0},
		{"no root", []byte{1, 'a'}, 0},
		{"nothing", nil, 0},
	}
	for _, tt := range tests {
		if got := nameLen(tt.b); got != tt.want {
			t.Errorf("%s: nameLen = %d, want %d", tt.what, got, tt.want)
		}
	}
}
