// Package netns makes network namespaces that leave no trace.
//
// A namespace made here has no name under /run/netns and needs no program to set it up: it is held by one thread and one
// descriptor of this process, so that it is gone, with its links, addresses, rules and connections, when the process is gone,
// whatever ended it. Processes started inside carry a parent-death signal and go with it.
//
// An ordinary user may use it too: Main (for tests) and Enter (for programs) start the same program again inside a user
// namespace, where it is root over its own network.
//
// It does not know DNS, clusters or firewall rules, and it makes no namespace that outlives the process.
package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
)

// ErrUnavailable is what Available, New and Enter wrap when this machine does not let this user make network namespaces.
// The text says why and what would help.
var ErrUnavailable = errors.New("network namespaces are not available")

// insideEnv marks a program that Main or Enter started again inside a user namespace, so that it does not try a second time.
const insideEnv = "DNSLET_USER_NAMESPACE"

// Route is one route of a namespace.
type Route struct {
	Dst  netip.Prefix // 0.0.0.0/0 and ::/0 are the default routes
	Link string       // where packets leave; may be empty when Via alone decides
	Via  netip.Addr   // next hop; the zero value: none, the destination is on the link
	Src  netip.Addr   // preferred source address; the zero value: the kernel chooses

	// OnLink says that Via is reachable on Link although no address of ours covers it: how point-to-point links of
	// pods are routed.
	OnLink bool
	// Local makes Dst addresses of the namespace itself (`ip route add local`).
	Local bool
}

// TB is the part of testing.TB that Require uses.
type TB interface {
	Helper()
	Skipf(format string, args ...any)
}

// Require skips the test when this machine lets us make no namespaces, with the reason.
func Require(t TB) {
	t.Helper()
	if err := Available(); err != nil {
		t.Skipf("%v", err)
	}
}

// Main is for TestMain of a package whose tests need namespaces:
//
//	func TestMain(m *testing.M) { os.Exit(netns.Main(m)) }
//
// Where namespaces can be made (root) it runs the tests as they are. Otherwise it runs the test binary again inside a user
// namespace, where this user is root. Where the kernel or a security module forbids that too, it says so with the remedy,
// runs the tests all the same, and those that begin with Require are skipped. It returns the exit code.
func Main(m interface{ Run() int }) int {
	inside, code, err := Enter()
	if !inside && err == nil {
		return code
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "SKIPPED: the tests that need network namespaces: %v\n", err)
	}
	return m.Run()
}
