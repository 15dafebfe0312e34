package lab

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/dnslet/dnslet/agent"
	"github.com/dnslet/dnslet/lab/netns"
)

// TestMain runs the tests, or, as the command that agentCommand names, an agent.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		os.Exit(runAgent(os.Args[2:]))
	}
	os.Exit(netns.Main(m))
}

// agentCommand runs the agent of this tree inside the test binary, so that no program need be built.
func agentCommand() []string { return []string{"/proc/self/exe", "agent"} }

func runAgent(args []string) int {
	o := agent.Options{Version: "test", Log: os.Stderr, Getenv: os.Getenv}
	for i := 0; i+1 < len(args); i += 2 {
		if args[i] != "--set" {
			fmt.Fprintln(os.Stderr, "unexpected argument", args[i])
			return 2
		}
		o.Set = append(o.Set, args[i+1])
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	a, err := agent.New(o)
	if err == nil {
		err = a.Run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
