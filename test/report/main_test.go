package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const events = `{"Action":"output","Package":"github.com/dnslet/dnslet/wire","Test":"TestA","Output":"    a_test.go:7: needs nft\n"}
{"Action":"skip","Package":"github.com/dnslet/dnslet/wire","Test":"TestA"}
{"Action":"pass","Package":"github.com/dnslet/dnslet/wire","Test":"TestB"}
{"Action":"output","Package":"github.com/dnslet/dnslet/wire","Test":"TestC","Output":"    c_test.go:9: got 1\n"}
{"Action":"fail","Package":"github.com/dnslet/dnslet/wire","Test":"TestC"}
{"Action":"fail","Package":"github.com/dnslet/dnslet/wire","Elapsed":1.25}
{"Action":"output","Package":"github.com/dnslet/dnslet/cache","Output":"skipped: all: no user namespaces\n"}
{"Action":"pass","Package":"github.com/dnslet/dnslet/cache","Elapsed":0.5}
{"Action":"fail","Package":"github.com/dnslet/dnslet/lab","Elapsed":0}
`

// Red when: testEnds does not count a failure, or reason takes the first line of go test itself.
func TestSummary(t *testing.T) {
	var out strings.Builder
	s := summary{out: &out, output: map[string][]string{}}
	if err := s.read(strings.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	s.print()
	want := `--- wire TestC
    c_test.go:9: got 1
FAIL     wire              1.2s
ok       cache             0.5s
FAIL     lab               0.0s

skipped:
  wire TestA: a_test.go:7: needs nft
  cache: all: no user namespaces

failed:
  wire TestC
  lab

1 passed, 2 failed, 2 skipped
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
}
