package intercept

import (
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// The probe is a DNS question as others read it, and only a response with its ID answers it.
//
// Red when: a label's length is wrong, or answers does not look at QR or the ID.
func TestQuestion(t *testing.T) {
	msg, err := question("probe.dnslet.invalid.")
	if err != nil {
		t.Fatal(err)
	}
	var m dns.Msg
	if err := m.Unpack(msg); err != nil {
		t.Fatal(err)
	}
	if len(m.Question) != 1 || m.Question[0] != (dns.Question{Name: "probe.dnslet.invalid.", Qtype: dns.TypeA, Qclass: dns.ClassINET}) || m.Response {
		t.Errorf("question %v", m)
	}
	if answers(msg, 0) {
		t.Error("a question answers itself")
	}
	msg[2] |= 0x80
	if !answers(msg, 0) || answers(msg, 1) || answers(msg[:11], 0) || answers(nil, 0) {
		t.Error("the answer is not told from others")
	}
	long := strings.Repeat("a", 63) + "."
	if _, err := question(strings.Repeat(long, 3) + strings.Repeat("a", 61) + "."); err != nil {
		t.Errorf("a name of 255 bytes: %v", err)
	}
	for _, bad := range []string{"", ".", "a", "a..", ".a.", `a\.b.`, strings.Repeat("a", 64) + ".", strings.Repeat(long, 4)} {
		if _, err := question(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
