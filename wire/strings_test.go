package wire

import (
	"testing"

	"github.com/miekg/dns"
)

// Red when: a mnemonic or a number in type.go or rcode.go is wrong.
func TestMnemonics(t *testing.T) {
	for n := range 1 << 16 {
		typ := Type(n)
		if s, ok := dns.TypeToString[uint16(n)]; ok && typ.String() != s && typ.String()[:4] != "TYPE" {
			t.Errorf("type %d is %s, want %s", n, typ, s)
		}
		if got, ok := ParseType(typ.String()); !ok || got != typ {
			t.Errorf("ParseType(%s) = %d, %v", typ, got, ok)
		}
		if s, ok := dns.ClassToString[uint16(n)]; ok && Class(n).String() != s && Class(n).String()[:5] != "CLASS" {
			t.Errorf("class %d is %s, want %s", n, Class(n), s)
		}
		if s, ok := dns.RcodeToString[n]; ok && RCode(n).String() != s && n <= int(RCodeNotZone) {
			t.Errorf("rcode %d is %s, want %s", n, RCode(n), s)
		}
		if s, ok := dns.ExtendedErrorCodeToString[uint16(n)]; ok && EDE(n) != EDENone && EDE(n).String() != s && EDE(n).String()[:4] != "EDE " {
			t.Errorf("EDE %d is %s, want %s", n, EDE(n), s)
		}
	}
	for _, bad := range []string{"", "TYPE", "TYPE65536", "TYPE-1", "AA", "a longer text than any type has"} {
		if typ, ok := ParseType(bad); ok {
			t.Errorf("ParseType(%q) = %v", bad, typ)
		}
	}
	if typ, ok := ParseType("aaaa"); !ok || typ != TypeAAAA {
		t.Errorf("ParseType(aaaa) = %v, %v", typ, ok)
	}
	for v, rc := range map[Verdict]RCode{Accept: 0, FormErr: 1, NotImp: 4, Refused: 5, NotAuth: 9, BadVers: 16, Drop: 2} {
		if v.RCode() != rc {
			t.Errorf("%v has %v, want %v", v, v.RCode(), rc)
		}
	}
	words := map[string]bool{}
	for v := Drop; v <= NotAuth; v++ {
		words[v.String()] = true
	}
	for k := Other; k <= Failure; k++ {
		words[k.String()] = true
	}
	if len(words) != int(NotAuth)+1+int(Failure)+1 || words["unknown"] {
		t.Errorf("words of verdicts and kinds: %v", words)
	}
}
