package resolver

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"
)

// children are programs inside the test binary: tests that need a process of
// their own, with its own limits or one that can be stopped, start the binary
// again with the variable set.
const childVariable = "DNSLET_RESOLVER_TEST_CHILD"

var children = map[string]func() error{}

func TestMain(m *testing.M) {
	if name := os.Getenv(childVariable); name != "" {
		if err := children[name](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if leaked := leakedGoroutines(); code == 0 && leaked != "" {
		fmt.Fprintf(os.Stderr, "goroutines of this package outlive its tests:\n%s", leaked)
		code = 1
	}
	os.Exit(code)
}

// leakedGoroutines returns the stacks that are still within this package, after
// giving those that are about to end a moment.
func leakedGoroutines() string {
	var leaked string
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); runtime.Gosched() {
		var b bytes.Buffer
		_ = pprof.Lookup("goroutine").WriteTo(&b, 2)
		leaked = ""
		for _, stack := range strings.Split(b.String(), "\n\n") {
			if strings.Contains(stack, "dnslet/resolver.") && !strings.Contains(stack, "leakedGoroutines") {
				leaked += stack + "\n\n"
			}
		}
		if leaked == "" {
			return ""
		}
	}
	return leaked
}
