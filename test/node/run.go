package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// row is one promise and what was seen of it.
type row struct {
	promise, seen string
	kept          bool
}

// trial is the state that the steps share.
type trial struct {
	ctx     context.Context
	o       options
	node    *place
	clients []*client // pod and node, UDP and TCP
	config  string
	agent   *agent
	rows    []row
}

func (t *trial) row(kept bool, promise, seen string, args ...any) {
	r := row{promise: promise, seen: fmt.Sprintf(seen, args...), kept: kept}
	t.rows = append(t.rows, r)
	word := "ok  "
	if !kept {
		word = "FAIL"
	}
	fmt.Printf("%s  %-62s %s\n", word, r.promise, r.seen)
}

func run(ctx context.Context, o options) (kept bool, err error) {
	t, done, err := prepare(ctx, o)
	if err != nil {
		return false, err
	}
	defer done()
	fmt.Printf("Linux %s, kube-proxy in %s mode, VIP %s, endpoints %v\n", release(), o.proxy, o.vip, o.endpoints)
	for _, step := range []func() error{t.before, t.serves, t.untracked, t.streams, t.stopped, t.terminated, t.killed, t.foreignFlush} {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if err := step(); err != nil {
			return false, err
		}
	}
	kept = true
	for _, r := range t.rows {
		kept = kept && r.kept
	}
	return kept, nil
}

func prepare(ctx context.Context, o options) (*trial, func(), error) {
	node, err := open("node", o.node)
	if err != nil {
		return nil, nil, err
	}
	pod, err := open("pod", o.pod)
	if err != nil {
		return nil, nil, err
	}
	t := &trial{ctx: ctx, o: o, node: node}
	for _, p := range []*place{pod, node} {
		s, err := p.sockets()
		if err != nil {
			return nil, nil, err
		}
		for _, network := range []string{"udp", "tcp"} {
			t.clients = append(t.clients, &client{name: p.name + " " + network, network: network, from: s, vip: netip.AddrPortFrom(o.vip, 53)})
		}
	}
	stop, err := serveWorld(o.world)
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "dnslet-node")
	if err != nil {
		return nil, nil, err
	}
	t.config, err = writeConfig(dir, o)
	return t, func() {
		if t.agent != nil {
			t.agent.kill()
		}
		stop()
		os.RemoveAll(dir)
	}, err
}

// each asks whoami once by every client and returns who answered, or the error.
func (t *trial) each() (seen string, by map[string]int) {
	by = map[string]int{}
	var words []string
	for _, c := range t.clients {
		l := c.ask(whoami)
		who := l.who
		if l.err != nil {
			who = l.err.Error()
		}
		by[who]++
		words = append(words, c.name+": "+who)
	}
	return strings.Join(words, ", "), by
}

func (t *trial) before() error {
	// Cluster DNS held its upstream for dead until this program began to serve it, and remembers its own SERVFAIL for some seconds.
	for range 5 {
		t.settle(byCluster, 30*time.Second)
	}
	seen, by := t.each()
	t.row(by[byCluster] == len(t.clients), "without dnslet, cluster DNS answers", "%s", seen)
	left, err := traces(t.node)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("there are traces of a dnslet on this node already: %v", left)
	}
	return nil
}

func (t *trial) start() (err error) {
	t.agent, err = startAgent(t.ctx, t.node, t.o.dnslet, t.config)
	return err
}

func (t *trial) serves() error {
	if err := t.start(); err != nil {
		return err
	}
	if !t.settle(byDnslet, 2*time.Second) {
		t.row(false, "dnslet answers pods and the node", "not within 2 s of being ready")
	}
	seen, by := t.each()
	t.row(by[byDnslet] == len(t.clients), "dnslet answers pods and the node, by UDP and TCP", "%s", seen)
	return nil
}

// settle waits until every client is answered by who.
func (t *trial) settle(who string, limit time.Duration) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		if _, by := t.each(); by[who] == len(t.clients) {
			return true
		}
	}
	return false
}

func (t *trial) untracked() error {
	w, err := watchConntrack(t.node, t.o)
	if err != nil {
		return err
	}
	defer w.close()
	failed, misses := 0, 0
	for i := range t.o.lookups {
		name := whoami
		if i%5 == 4 { // one in five has never been asked before
			name = fmt.Sprintf("n%d-%d.%s", i, os.Getpid(), zone)
			misses++
		}
		if l := t.clients[i%len(t.clients)].ask(name); l.err != nil || l.wrong {
			failed++
		}
	}
	ours := w.vip.Load() + w.own.Load() + w.up.Load()
	t.row(ours == 0 && failed == 0, fmt.Sprintf("%d lookups, %d of them misses, make no conntrack entry", t.o.lookups, misses),
		"%d failed; NEW events: %d to the VIP, %d at our addresses, %d to endpoints", failed, w.vip.Load(), w.own.Load(), w.up.Load())
	if ours != 0 {
		fmt.Printf("      last of them: %v\n", w.last.Load())
	}
	// The count above means nothing if the watch is deaf: a lookup that goes to kube-proxy must be seen by it.
	return t.watchHears(w)
}

// watchHears proves that an entry would have been counted: the agent is stopped, and cluster DNS asked through the VIP.
func (t *trial) watchHears(w *watch) error {
	before := w.vip.Load()
	if err := t.agent.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	settled := t.settle(byCluster, 5*time.Second)
	if err := t.agent.signal(syscall.SIGCONT); err != nil {
		return err
	}
	heard := w.vip.Load() - before
	t.row(settled && heard > 0, "the watch is not deaf: lookups through kube-proxy are counted", "%d NEW events", heard)
	if !t.settle(byDnslet, 10*time.Second) {
		t.row(false, "dnslet is back", "not within 10 s")
	}
	return nil
}

// foreignFlush is the last step: kube-proxy's rules go with the flush, and in nftables mode it puts them back only when it has
// something to change.
func (t *trial) foreignFlush() error {
	if err := t.start(); err != nil {
		return err
	}
	if !t.settle(byDnslet, 2*time.Second) {
		t.row(false, "dnslet answers after a start", "not within 2 s of being ready")
	}
	l := startLoad(t.ctx, 20*time.Millisecond, t.clients)
	pause(t.ctx, time.Second)
	flushed := time.Now()
	cmd := exec.Command(t.o.rulesetCmd, "flush", "ruleset")
	if err := t.node.do(cmd.Run); err != nil {
		l.end()
		return fmt.Errorf("cannot flush the ruleset of the node: %w", err)
	}
	pause(t.ctx, 3*time.Second)
	s := summarise(l.end(), flushed)
	t.row(s.failed == 0 && s.wrong == 0 && s.by[byCluster] == 0, "`nft flush ruleset` by somebody else", "%v", s)
	if err := t.agent.signal(syscall.SIGTERM); err != nil {
		return err
	}
	_, err := t.agent.wait(15 * time.Second)
	return err
}

func (t *trial) streams() error {
	ctx, cancel := context.WithTimeout(t.ctx, t.o.stream)
	defer cancel()
	results := make([]streamResult, 2)
	var wg sync.WaitGroup
	for i, c := range []*client{t.clients[1], t.clients[3]} {
		wg.Go(func() { results[i] = c.stream(ctx) })
	}
	wg.Wait()
	kept, seen := true, ""
	for i, name := range []string{"pod", "node"} {
		r := results[i]
		kept = kept && r.err == nil
		seen += fmt.Sprintf("%s: %d of %d answered, %d later than 50 ms, error: %v; ", name, r.answered, r.asked, r.late, r.err)
	}
	t.row(kept, fmt.Sprintf("a TCP connection with a question each 50 ms lives for %s", t.o.stream), "%s", seen)
	return nil
}

func (t *trial) stopped() error {
	l := startLoad(t.ctx, 20*time.Millisecond, t.clients)
	pause(t.ctx, time.Second)
	stopped := time.Now()
	if err := t.agent.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	pause(t.ctx, 5*time.Second)
	continued := time.Now()
	if err := t.agent.signal(syscall.SIGCONT); err != nil {
		return err
	}
	pause(t.ctx, 5*time.Second)
	lookups := l.end()
	s := summarise(lookups, stopped)
	handedOver := latest(lookups, func(l lookup) bool { return l.who != byCluster && l.at.After(stopped) && l.at.Before(continued) })
	gap := max(0, handedOver.Sub(stopped))
	t.row(gap <= 600*time.Millisecond, "SIGSTOP: cluster DNS within 0.6 s", "the last lookup it kept was asked after %s; %v", gap.Round(time.Millisecond), s)
	back := earliest(lookups, func(l lookup) bool { return l.who == byDnslet && l.at.After(continued) })
	late := countIf(lookups, func(l lookup) bool { return l.err != nil && l.at.After(stopped.Add(600*time.Millisecond)) })
	t.row(!back.IsZero() && late == 0, "SIGCONT: dnslet again, by itself", "after %s; %d lookups failed between 0.6 s after the stop and the end", back.Sub(continued).Round(time.Millisecond), late)
	return nil
}

func (t *trial) terminated() error {
	l := startLoad(t.ctx, 10*time.Millisecond, t.clients)
	pause(t.ctx, time.Second)
	at := time.Now()
	if err := t.agent.signal(syscall.SIGTERM); err != nil {
		return err
	}
	code, err := t.agent.wait(15 * time.Second)
	took := time.Since(at)
	pause(t.ctx, time.Second)
	s := summarise(l.end(), at)
	if err != nil {
		return err
	}
	left, terr := traces(t.node)
	if terr != nil {
		return terr
	}
	t.row(s.failed == 0 && s.wrong == 0 && code == 0, "SIGTERM under load: nothing lost, no answer from a wrong address", "%v; exit code %d after %s", s, code, took.Round(time.Millisecond))
	t.row(len(left) == 0, "after SIGTERM nothing of dnslet is left", "%v", left)
	t.agent = nil
	return nil
}

func (t *trial) killed() error {
	if err := t.start(); err != nil {
		return err
	}
	if !t.settle(byDnslet, 2*time.Second) {
		t.row(false, "dnslet answers after a start", "not within 2 s of being ready")
	}
	l := startLoad(t.ctx, 10*time.Millisecond, t.clients)
	ctx, cancel := context.WithCancel(t.ctx)
	stream := make(chan streamResult, 1)
	go func() { stream <- t.clients[1].stream(ctx) }()
	pause(t.ctx, time.Second)
	at := time.Now()
	t.agent.kill()
	dead := time.Now()
	t.agent = nil
	pause(t.ctx, 2*time.Second)
	cancel()
	lookups := l.end()
	s := summarise(lookups, at)
	after := countIf(lookups, func(l lookup) bool { return l.err != nil && l.at.After(dead) })
	open := <-stream
	t.row(after == 0, "kill -9: every lookup asked after its death is answered", "%v; asked before and lost with its sockets: %d; an open TCP connection: %v", s, s.failed-after, open.err)
	left, err := traces(t.node)
	if err != nil {
		return err
	}
	rules := 0
	for _, trace := range left {
		if strings.HasPrefix(trace, "table") {
			rules++
		}
	}
	t.row(rules == 0, "kill -9: no rule is left", "left: %v", left)
	out, err := t.cleanup()
	if err != nil {
		return err
	}
	left, err = traces(t.node)
	if err != nil {
		return err
	}
	t.row(len(left) == 0, "dnslet cleanup removes the rest", "said: %s", out)
	return nil
}

func (t *trial) cleanup() (string, error) {
	cmd := exec.Command(t.o.dnslet, "cleanup")
	var out []byte
	err := t.node.do(func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("dnslet cleanup: %w: %s", err, out)
	}
	return strings.Join(strings.Fields(string(out)), " "), nil
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "?"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// pause lets the load run on; the run itself is what is measured.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
