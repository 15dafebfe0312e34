package resolver

import (
	"testing"

	"github.com/miekg/dns"
)

func TestHitAndMiss(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			u := &scripted{}
			s := runServer(t, u)
			for range 3 {
				r := s.ask(t, network, question("WWW.example.", dns.TypeA))
				if r.Rcode != dns.RcodeSuccess || len(r.Answer) != 1 || r.Question[0].Name != "WWW.example." {
					t.Fatalf("got %v", r)
				}
			}
			if n := u.count("www.example./A"); n != 1 {
				t.Errorf("upstream was asked %d times, want 1", n)
			}
		})
	}
}
