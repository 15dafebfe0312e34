package intercept_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnslet/dnslet/intercept"
)

// agent is an agent with its interception, in this process.
type agent struct {
	i       *intercept.Interception
	plan    *intercept.Plan
	servers []*server
	beat    atomic.Pointer[error]
	cancel  context.CancelFunc
	ran     chan error
}

func config(mod ...func(*intercept.Config)) intercept.Config {
	cfg := intercept.Default()
	cfg.VIPs, cfg.Endpoints = vips, endpoints
	for _, m := range mod {
		m(&cfg)
	}
	return cfg
}

// patient is for tests that are not about the heartbeat: a busy machine must not make them see cluster DNS.
func patient(c *intercept.Config) { c.Heartbeat = 5 * time.Second }

// newAgent prepares, listens and installs; in runs a function inside the node.
func newAgent(in func(func() error) error, cfg intercept.Config, deny ...func(*intercept.Interception)) (*agent, error) {
	plan, err := intercept.NewPlan(cfg)
	if err != nil {
		return nil, err
	}
	a := &agent{plan: plan, ran: make(chan error, 1)}
	if err := in(func() (err error) { a.i, err = intercept.Prepare(plan); return err }); err != nil {
		return nil, err
	}
	for _, d := range deny {
		d(a.i)
	}
	for _, l := range plan.Listeners() {
		s, err := listen(in, netip.AddrPortFrom(l.Addr, 53), int(cfg.Marks.Listener), agentIs)
		if err != nil {
			return nil, errors.Join(err, a.stop())
		}
		a.servers = append(a.servers, s)
	}
	if err := a.i.Install(); err != nil {
		return nil, errors.Join(err, a.stop())
	}
	var ctx context.Context
	ctx, a.cancel = context.WithCancel(context.Background())
	go func() {
		a.ran <- in(func() error {
			return a.i.Run(ctx, func() error {
				if err := a.beat.Load(); err != nil {
					return *err
				}
				return nil
			})
		})
	}()
	return a, nil
}

// stop is not the orderly stop: it ends everything at once.
func (a *agent) stop() error {
	var err error
	if a.cancel != nil {
		a.cancel()
		err = <-a.ran
		a.cancel = nil
	}
	err = errors.Join(err, a.i.Close())
	for _, s := range a.servers {
		s.stop()
	}
	return err
}

// alive waits until the kernel gives questions to every listener by both transports.
func (a *agent) alive() error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for {
		s, err := a.i.Status()
		if err != nil {
			return err
		}
		all := len(s.Alive) > 0
		for _, l := range s.Alive {
			all = all && l.Alive
		}
		if all {
			return nil
		}
		select {
		case <-tick.C:
		case <-late:
			return fmt.Errorf("not alive: %s", s.Reason)
		}
	}
}

// agent starts an agent on the node and waits until it is in service.
func (w *world) agent(cfg intercept.Config, deny ...func(*intercept.Interception)) *agent {
	w.t.Helper()
	a, err := newAgent(w.node.Do, cfg, deny...)
	w.must(err)
	w.t.Cleanup(func() {
		if err := a.stop(); err != nil {
			w.t.Errorf("the agent's end: %v", err)
		}
	})
	w.must(a.alive())
	return a
}

func (a *agent) status(t *testing.T) intercept.Status {
	t.Helper()
	s, err := a.i.Status()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// helperEnv makes the test binary an agent, as a process of its own: to be stopped and killed. Its value names the features
// that the kernel shall not have.
const helperEnv = "DNSLET_INTERCEPT_HELPER"

func helper() int {
	cfg := config()
	if os.Getenv(helperEnv) == "starved" {
		cfg.Heartbeat = 2 * time.Second // so that a busy machine withdraws nothing
	}
	a, err := newAgent(func(fn func() error) error { return fn() }, cfg, func(i *intercept.Interception) {
		i.Deny(os.Getenv(helperEnv) == "unowned", false, false)
	})
	if err == nil {
		err = a.alive()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if os.Getenv(helperEnv) == "starved" { // no new descriptor from here on
		err = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 256, Max: 1024})
		for err == nil {
			_, err = unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		if errors.Is(err, unix.EMFILE) {
			err = nil
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // until it is killed, or the test ends
	return 0
}

// process starts an agent on the node as a process and waits until it is in service.
func (w *world) process(mode string) *exec.Cmd {
	w.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"="+mode)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	w.must(err)
	out, err := cmd.StdoutPipe()
	w.must(err)
	w.must(w.node.Start(cmd))
	w.t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		w.t.Fatalf("the agent process: %q, %v", line, err)
	}
	return cmd
}
