package intercept_test

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/dnslet/dnslet/intercept"
	"github.com/dnslet/dnslet/lab/netns"
)

// The kernel withdraws an agent that has not answered for half a second; clients notice with their next question. The rest
// is for machines that are busy.
const withdrawn = 600*time.Millisecond + 900*time.Millisecond

// An agent that answers again is back with its first answer. The rest is for machines so busy that it lapsed before, which
// costs a wait.
const back = 5 * time.Second

// A stopped process holds its sockets and its table, and answers nothing.
//
// Red when: datagram and handshake do not look at @alive.
func TestStoppedProcess(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		w := newWorld(t)
		cmd := w.process("owned")
		for _, from := range []*netns.NS{w.pods[0], w.node} {
			w.until(from, network, vip4, agentIs, back)
		}
		w.must(cmd.Process.Signal(syscall.SIGSTOP))
		took, _ := w.until(w.pods[0], network, vip4, cluster, withdrawn)
		w.expect(w.pods[0], network, vip6, cluster)
		w.expect(w.node, network, vip4, cluster)
		t.Logf("%s: cluster DNS %s after SIGSTOP", network, took)
		w.must(cmd.Process.Signal(syscall.SIGCONT))
		took, lost := w.until(w.pods[0], network, vip4, agentIs, back)
		if lost > 0 {
			t.Errorf("%s: %d lookups lost on the way back", network, lost)
		}
		t.Logf("%s: the agent %s after SIGCONT", network, took)
	}
}

// An agent whose readers make no progress says so, and is withdrawn though its sockets could answer.
//
// Red when: Run does not call beat.
func TestNoProgress(t *testing.T) {
	w := newWorld(t)
	a := w.agent(config())
	stuck := errors.New("reader 1 is stuck")
	a.beat.Store(&stuck)
	w.until(w.pods[0], "udp", vip4, cluster, withdrawn)
	w.until(w.pods[0], "tcp", vip4, cluster, withdrawn)
	if s := a.status(t); s.Reason != "the agent makes no progress: reader 1 is stuck" {
		t.Errorf("reason %q", s.Reason)
	}
	a.beat.Store(nil)
	w.until(w.pods[0], "udp", vip4, agentIs, back)
	w.until(w.pods[0], "tcp", vip4, agentIs, back)
}

// The kernel changes links and rules for one program at a time. While it makes us wait the agent answers as before, and is asked.
//
// Red when: loop calls look itself, or stance takes i.mu.
func TestHeartbeatWaitsForNobody(t *testing.T) {
	w := newWorld(t)
	a := w.agent(config(func(c *intercept.Config) { c.Heartbeat = time.Second }))
	lapses := a.status(t).Lapses
	release := a.i.Stall()
	w.must(w.node.AddAddr("pod0", netip.MustParsePrefix("10.97.9.1/24"))) // Run looks at the routes
	for begin := time.Now(); time.Since(begin) < 2500*time.Millisecond; {
		w.expect(w.pods[0], "udp", vip4, agentIs)
		w.expect(w.node, "tcp", vip6, agentIs)
		if t.Failed() {
			break
		}
	}
	release()
	if n := a.status(t).Lapses; n != lapses {
		t.Errorf("%d lapses", n-lapses)
	}
}

// Each transport, and each listener, has a heartbeat of its own.
//
// Red when: the key of set alive loses the protocol, or the address.
func TestDeafTransport(t *testing.T) {
	w := newWorld(t)
	a := w.agent(config())
	deaf := a.servers[0]
	for _, c := range []struct {
		network, other string
		gate           *gate
	}{{"udp", "tcp", &deaf.deafUDP}, {"tcp", "udp", &deaf.deafTCP}} {
		c.gate.close()
		w.until(w.pods[0], c.network, vip4, cluster, withdrawn)
		w.until(w.pods[0], c.other, vip4, agentIs, back)
		w.until(w.pods[0], c.network, vip4b, agentIs, back)
		w.until(w.pods[0], c.network, vip6, agentIs, back)
		c.gate.open()
		w.until(w.pods[0], c.network, vip4, agentIs, back)
	}
}

// After kill -9 the next lookup is answered by cluster DNS and no table is left.
//
// Red when: the table is made without NFT_TABLE_F_OWNER.
func TestKilledProcess(t *testing.T) {
	w := newWorld(t)
	before := w.dump()
	cmd := w.process("owned")
	w.until(w.pods[0], "udp", vip4, agentIs, back)
	w.must(cmd.Process.Kill())
	_ = cmd.Wait() // its sockets are closed now
	for _, network := range []string{"udp", "tcp"} {
		for _, vip := range []netip.Addr{vip4, vip6} {
			w.expect(w.pods[0], network, vip, cluster)
			w.expect(w.node, network, vip, cluster)
		}
	}
	for _, l := range w.tables() {
		if l.Name == "dnslet" {
			t.Errorf("table %v is left", l)
		}
	}
	w.must(w.node.Do(func() error { _, err := intercept.Cleanup(false); return err }))
	w.same(before)
}

// Without owned tables the rules outlive the agent and intercept nothing: pods at once, since no socket listens, the node's own
// lookups after a heartbeat. The next agent, or Cleanup, takes them away.
//
// Red when: socketIs is left out of the rules.
func TestKilledProcessWithoutOwnedTables(t *testing.T) {
	w := newWorld(t)
	before := w.dump()
	kill := func() {
		t.Helper()
		cmd := w.process("unowned")
		w.until(w.pods[0], "udp", vip4, agentIs, back)
		w.must(cmd.Process.Kill())
		_ = cmd.Wait()
		w.expect(w.pods[0], "udp", vip4, cluster)
		w.expect(w.pods[0], "tcp", vip6, cluster)
		w.until(w.node, "udp", vip4, cluster, withdrawn)
	}
	kill()
	kill() // a second agent over the leftovers of the first
	var dry, done, again []string
	w.must(w.node.Do(func() (err error) {
		dry, err = intercept.Cleanup(true)
		return err
	}))
	w.must(w.node.Do(func() (err error) {
		done, err = intercept.Cleanup(false)
		return err
	}))
	w.must(w.node.Do(func() (err error) {
		again, err = intercept.Cleanup(false)
		return err
	}))
	if len(dry) != 4 || len(done) != 4 || len(again) != 0 { // two tables, two routes
		t.Errorf("Cleanup found %q, removed %q, then %q", dry, done, again)
	}
	w.same(before)
}

// Somebody else flushes the whole ruleset: kube-proxy's rules go, ours stay, and nothing is lost.
//
// Red when: the table is made without NFT_TABLE_F_OWNER.
func TestForeignFlush(t *testing.T) {
	w := newWorld(t)
	a := w.agent(config(patient))
	flushes := []func() error{func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.FlushRuleset()
		return c.Flush()
	}}
	nft := "/usr/sbin/nft"
	if _, err := os.Stat(nft); err == nil {
		flushes = append(flushes, func() error { return w.node.Run(exec.Command(nft, "flush", "ruleset")) })
	} else {
		t.Logf("nft is not installed: flushed by netlink only")
	}
	for _, flush := range flushes {
		w.must(w.node.Do(flush))
		for range 20 {
			w.expect(w.pods[0], "udp", vip4, agentIs)
			w.expect(w.node, "tcp", vip6, agentIs)
		}
		w.must(w.node.Do(kubeProxy))
	}
	if s := a.status(t); !s.Installed || s.Lapses != 0 {
		t.Errorf("status after flushes: %+v", s)
	}
}

// Where tables cannot be owned a flush takes ours too; it is put back.
//
// Red when: look does not call restore.
func TestForeignFlushWithoutOwnedTables(t *testing.T) {
	w := newWorld(t)
	a := w.agent(config(patient), func(i *intercept.Interception) { i.Deny(true, false, false) })
	w.must(w.node.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.FlushRuleset()
		return c.Flush()
	}))
	w.must(w.node.Do(kubeProxy))
	w.until(w.pods[0], "udp", vip4, agentIs, back)
	if s := a.status(t); s.Owned || s.TableRestored != 1 {
		t.Errorf("status after a flush: %+v", s)
	}
}

func ownRoute(prefix string) netns.Route {
	return netns.Route{Dst: netip.MustParsePrefix(prefix), Link: "lo", Local: true}
}

// Our route is deleted: not one lookup is lost, and it is back within 2 s.
//
// Red when: isLocal is left out of the rules, or look does not call ensure.
func TestRouteDeleted(t *testing.T) {
	w := newWorld(t)
	a := w.agent(config(patient))
	for _, c := range []struct {
		prefix string
		vip    netip.Addr
	}{{"169.254.53.48/28", vip4}, {"fd64:6e73:6c65:74::30/124", vip6}} {
		begin, restored := time.Now(), a.status(t).RouteRestored
		w.must(w.node.DelRoute(ownRoute(c.prefix)))
		for a.status(t).RouteRestored == restored {
			if who, err := ask(w.pods[0], "udp", c.vip); who == nobody {
				t.Errorf("lookup lost while the route was gone: %v", err)
			}
			if time.Since(begin) > 2*time.Second {
				t.Fatalf("%s not put back within 2 s", c.prefix)
			}
		}
		w.until(w.pods[0], "udp", c.vip, agentIs, back)
	}

	// And with nobody to put it back the kernel decides, though the heartbeat still counts.
	a.cancel()
	w.must(<-a.ran)
	a.cancel = nil
	w.must(w.node.DelRoute(ownRoute("169.254.53.48/28")))
	w.must(w.node.DelRoute(ownRoute("fd64:6e73:6c65:74::30/124")))
	for _, vip := range vips {
		w.expect(w.pods[0], "udp", vip, cluster)
		w.expect(w.pods[0], "tcp", vip, cluster)
		w.expect(w.node, "udp", vip, cluster)
		w.expect(w.node, "tcp", vip, cluster)
	}
}

// Addresses that the node already has are refused, and nothing of the node is changed.
//
// Red when: Prepare does not call unused.
func TestAddressesInUse(t *testing.T) {
	w := newWorld(t)
	w.must(w.node.AddAddr("pod0", netip.MustParsePrefix("169.254.53.53/32")))
	before := w.dump()
	if _, err := newAgent(w.node.Do, config()); err == nil || !strings.Contains(err.Error(), "169.254.53.53/32 is already an address of this node") {
		t.Errorf("agent on addresses in use: %v", err)
	}
	w.same(before)
}

// A kernel without some feature has the rest, and Status names what is lost.
//
// Red when: learn does not note the feature, or lost does not name it.
func TestMissingFeatures(t *testing.T) {
	for _, deny := range [][3]bool{{true, false, false}, {false, true, false}, {false, false, true}, {true, true, true}} {
		w := newWorld(t)
		a := w.agent(config(patient), func(i *intercept.Interception) { i.Deny(deny[0], deny[1], deny[2]) })
		want := 0
		for _, d := range deny {
			if d {
				want++
			}
		}
		if s := a.status(t); len(s.Missing) != want || s.Owned == deny[0] || s.Reason != "" {
			t.Errorf("denied %v: status %+v", deny, s)
		}
		for _, network := range []string{"udp", "tcp"} {
			w.expect(w.pods[0], network, vip4, agentIs)
			w.expect(w.node, network, vip6, agentIs)
		}
		// The upstream leg works, tracked or not.
		for k, vip := range []netip.Addr{vip4, vip6} {
			who, err := askFrom(w.node, "udp", endpoints[k].Addr(), netip.Addr{}, 0x54)
			if who != cluster {
				t.Errorf("denied %v: upstream for %s: answered by %d, %v", deny, vip, who, err)
			}
		}
		w.must(a.stop())
	}
}

// Another live agent's table is an error that names it, and neither a second agent nor Cleanup harms the first.
//
// Red when: leftovers ignores the owner, or Close removes the route in any case.
func TestSecondAgent(t *testing.T) {
	w := newWorld(t)
	cmd := w.process("owned")
	w.until(w.pods[0], "udp", vip4, agentIs, back)
	before := w.dump()
	_, err := newAgent(w.node.Do, config())
	if !errors.Is(err, intercept.ErrOwned) {
		t.Errorf("second agent: %v", err)
	}
	t.Log(err)
	var done []string
	err = w.node.Do(func() (err error) { done, err = intercept.Cleanup(false); return err })
	if !errors.Is(err, intercept.ErrOwned) || len(done) != 0 {
		t.Errorf("Cleanup beside a live agent removed %q: %v", done, err)
	}
	t.Log(err)
	w.same(before)
	w.expect(w.pods[0], "udp", vip4, agentIs)

	// One that hangs is no leftover: it may wake up.
	w.must(cmd.Process.Signal(syscall.SIGSTOP))
	w.until(w.pods[0], "udp", vip4, cluster, withdrawn)
	err = w.node.Do(func() (err error) { done, err = intercept.Cleanup(false); return err })
	if !errors.Is(err, intercept.ErrOwned) || len(done) != 0 {
		t.Errorf("Cleanup beside a stopped agent removed %q: %v", done, err)
	}
	w.must(cmd.Process.Signal(syscall.SIGCONT))
	w.until(w.pods[0], "udp", vip4, agentIs, back)
}

// Where tables cannot be owned the heartbeat tells that another agent lives.
//
// Red when: Prepare or Install does not call awaitSilence, or Close removes the route though a table is there.
func TestSecondAgentWithoutOwnedTables(t *testing.T) {
	w := newWorld(t)
	plan, err := intercept.NewPlan(config())
	w.must(err)
	var early *intercept.Interception // prepared before the other had a table
	w.must(w.node.Do(func() (err error) { early, err = intercept.Prepare(plan); return err }))
	early.Deny(true, false, false)
	w.process("unowned")
	w.until(w.pods[0], "udp", vip4, agentIs, back)
	before := w.dump()
	if _, err := newAgent(w.node.Do, config()); !errors.Is(err, intercept.ErrOwned) {
		t.Errorf("second agent: %v", err)
	}
	if err := early.Install(); !errors.Is(err, intercept.ErrOwned) {
		t.Errorf("an agent that was prepared before: %v", err)
	}
	w.must(early.Close())
	var done []string
	err = w.node.Do(func() (err error) { done, err = intercept.Cleanup(false); return err })
	if !errors.Is(err, intercept.ErrOwned) || len(done) != 0 {
		t.Errorf("Cleanup beside a live agent removed %q: %v", done, err)
	}
	w.same(before)
}

// Before it has a table of its own an agent asks itself, and nobody is sent to it yet. What a killed one left would drop that
// question, or take the answer for a heartbeat.
//
// Red when: Prepare does not remove what is left.
func TestPrepareOverLeftovers(t *testing.T) {
	w := newWorld(t)
	cmd := w.process("unowned")
	w.until(w.pods[0], "udp", vip4, agentIs, back)
	w.must(cmd.Process.Kill())
	_ = cmd.Wait()
	plan, err := intercept.NewPlan(config())
	w.must(err)
	var i *intercept.Interception
	w.must(w.node.Do(func() (err error) { i, err = intercept.Prepare(plan); return err }))
	defer i.Close()
	l := plan.Listeners()[0]
	serve(t, w.node, netip.AddrPortFrom(l.Addr, 53), 0x53, agentIs)
	for _, network := range []string{"udp", "tcp"} {
		if who, err := askFrom(w.node, network, l.Addr, plan.Probers()[0], 0); who != agentIs {
			t.Errorf("asked from the prober's address by %s: answered by %d (%v)", network, who, err)
		}
		w.expect(w.pods[0], network, l.VIP, cluster)
	}
}

// An agent without descriptors accepts no connection, but its readers still answer: TCP alone goes to cluster DNS.
//
// Red when: the prober opens a socket for each question by UDP.
func TestNoDescriptors(t *testing.T) {
	w := newWorld(t)
	w.process("starved")
	for _, vip := range []netip.Addr{vip4, vip6} {
		w.until(w.pods[0], "tcp", vip, cluster, 2*withdrawn)
		w.until(w.node, "tcp", vip, cluster, 2*withdrawn)
	}
	for begin := time.Now(); time.Since(begin) < 3*time.Second; { // longer than the heartbeat
		for _, vip := range []netip.Addr{vip4, vip6} {
			w.expect(w.pods[0], "udp", vip, agentIs)
			w.expect(w.node, "udp", vip, agentIs)
		}
		if t.Failed() {
			return
		}
	}
}

// The socket that owns the tables must not be inherited: the tables would outlive the agent with its child.
//
// Red when: SOCK_CLOEXEC is left out.
func TestSocketIsNotInherited(t *testing.T) {
	w := newWorld(t)
	a := w.agent(config(patient))
	flags, err := unix.FcntlInt(uintptr(a.i.NftSocket()), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x, %v", flags, err)
	}
}
