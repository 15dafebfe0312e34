package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dnslet/dnslet/lab/netns"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// An agent answers every lookup of the pods, right, with no conntrack entry on either side of it; and from the moment it has
// ended in order, cluster DNS does.
//
// Red when: the meter counts the entries of another namespace (through cluster DNS there must be some), or StartAgent returns
// before the agent answers.
func TestAgentServesPods(t *testing.T) {
	c := newCluster(t, Config{Pods: 2, Endpoints: 3})
	agent, err := c.StartAgent(t.Context(), agentCommand())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		byAgent float64
		entries bool
	}{{"with the agent", 1, false}, {"after its end", 0, true}} {
		if err := c.flushConntrack(); err != nil {
			t.Fatal(err)
		}
		meter, err := c.Meter()
		if err != nil {
			t.Fatal(err)
		}
		got, _ := tally(Load{Rate: 50, Duration: time.Second, Seed: 7}.Run(t.Context(), c))
		want := Tally{Lookups: 50, ByAgent: test.byAgent}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Tally{}, "P50", "P99", "Max")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
		counters, err := meter.Stop()
		if err != nil {
			t.Fatal(err)
		}
		if (counters.NewEntries > 0) != test.entries {
			t.Errorf("%s: %d new conntrack entries", test.name, counters.NewEntries)
		}
		if err := agent.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// An agent that cannot start says why, at once.
//
// Red when: waitReady does not look whether the process has ended.
func TestStartAgentReportsFailure(t *testing.T) {
	c := newCluster(t, Config{Pods: 1, Endpoints: 1})
	_, err := c.StartAgent(t.Context(), append(agentCommand(), "--set", "nonsense=1"))
	if err == nil || !strings.Contains(err.Error(), "nonsense") || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("StartAgent: %v, want what the agent said", err)
	}
}

// What `dnslet lab run` prints is the report, and the picture is written; the exit code says whether promises were kept.
//
// Red when: fault forgets to mend, or Run ignores Missed.
func TestRunKill9(t *testing.T) {
	netns.Require(t)
	var out, progress bytes.Buffer
	svg := filepath.Join(t.TempDir(), "demo.svg")
	code, err := Run(t.Context(), Options{Agent: agentCommand(), Output: "json", SVG: svg, Out: &out, Progress: &progress}, "kill9")
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if len(r.Faults) != 1 || len(r.Paths) != 0 || len(r.Checks) != 3 || r.SchemaVersion != 1 || r.Kernel == "" {
		t.Fatalf("report: %s", out.String())
	}
	f := r.Faults[0]
	// The agent was away for 3 of 9 s: somebody else answered then, and it answered before and after.
	if f.Failed != 0 || f.Wrong != 0 || f.TakenOver < 0 || f.Back < 0 || f.ByAgent < 0.4 || f.ByAgent > 0.8 {
		t.Errorf("fault: %+v", f)
	}
	if want := 0; r.Missed() {
		t.Errorf("promises were not kept (code %d): %+v", code, r.Checks)
	} else if code != want {
		t.Errorf("exit code %d, want %d", code, want)
	}
	if _, err := os.Stat(svg); err != nil {
		t.Error(err)
	}
	if !strings.Contains(progress.String(), "kill9") || strings.ContainsAny(progress.String(), "\x1b\r") {
		t.Errorf("progress: %q", progress.String())
	}
}

// Red when: Run does not look at names before it builds a cluster.
func TestRunUnknown(t *testing.T) {
	code, err := Run(t.Context(), Options{}, "quite")
	if code != 2 || err == nil || !strings.Contains(err.Error(), `"quite"`) || !strings.Contains(err.Error(), "race-slow") {
		t.Errorf("Run = %d, %v, want 2 and the names there are", code, err)
	}
}

// An interrupted run ends at once, and says so.
//
// Red when: Load.Run does not look at ctx.
func TestRunInterrupted(t *testing.T) {
	netns.Require(t)
	ctx, cancel := context.WithCancel(t.Context())
	began := time.Now()
	// The first line about load is the moment to interrupt.
	progress := writerFunc(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte("lookups/s")) {
			cancel()
		}
		return len(p), nil
	})
	code, err := Run(ctx, Options{Agent: agentCommand(), Out: &bytes.Buffer{}, Progress: progress}, "quiet")
	if code != 1 || !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %d, %v, want 1 and what happened", code, err)
	}
	if took := time.Since(began); took > quietTime {
		t.Errorf("it took %v to end", took)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
