package node

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Red when: a comment sign inside a line ends it, a second search line adds to the first, or a scope is cut off.
func TestParseResolvConf(t *testing.T) {
	text := `# made by hand
; and by dhcp
domain old.example
search default.svc.cluster.local svc.cluster.local cluster.local
nameserver 10.0.0.10 # comment
nameserver	fe80::1%eth0
  nameserver ::ffff:192.0.2.1
nameserver 192.0.2.9
nameserver not.an.address
nameserver
options ndots:5 timeout:1 attempts:99 edns0 single-request-reopen ndots:x
options timeout:-1
sortlist 130.155.160.0/255.255.240.0
nonsense here
`
	want := ResolvConf{
		Nameservers: []netip.Addr{netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("192.0.2.1")},
		Search:      []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local"},
		Ndots:       5, Timeout: time.Second, Attempts: 5,
		Options: []string{"ndots:5", "timeout:1", "attempts:99", "edns0", "single-request-reopen", "ndots:x", "timeout:-1"},
		Ignored: []string{
			"line 8: more than 3 nameservers: nameserver 192.0.2.9",
			"line 9: not an address: nameserver not.an.address",
			"line 10: no address: nameserver",
			"line 14: unknown keyword: nonsense here",
		},
	}
	if diff := cmp.Diff(want, ParseResolvConf(text), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Red when: an empty file gets 127.0.0.1 as the C library would.
func TestParseResolvConfDefaults(t *testing.T) {
	want := ResolvConf{Ndots: 1, Timeout: 5 * time.Second, Attempts: 2}
	for _, text := range []string{"", "\n\n", "# only a comment", "\xff\x00\n"} {
		got := ParseResolvConf(text)
		got.Ignored = nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: -want +got:\n%s", text, diff)
		}
	}
	if got := ParseResolvConf("domain one.example\nsearch\noptions timeout:9999999999 timeout:31\nnameserver 10.0.0.1"); len(got.Search) != 0 || got.Timeout != 30*time.Second || len(got.Nameservers) != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestReadResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if _, err := ReadResolvConf(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("nameserver 192.0.2.53\r\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := ReadResolvConf(path)
	if err != nil || len(got.Nameservers) != 1 || got.Nameservers[0] != netip.MustParseAddr("192.0.2.53") {
		t.Errorf("got %+v, %v", got, err)
	}
}
