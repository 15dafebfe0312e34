package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/dnslet/dnslet/api"
	"github.com/dnslet/dnslet/config"
	"github.com/dnslet/dnslet/intercept"
	"github.com/dnslet/dnslet/resolver"
)

// interception is whether this agent takes the node's questions over, and if not, why not. With mode auto whatever is in
// the way is a reason to go on without; with mode on it is an error.
type interception struct {
	log  *slog.Logger
	mode config.Mode
	plan *intercept.Plan

	trial arrivals

	mu        sync.Mutex
	in        *intercept.Interception // nil: not in use, for the reason beside it
	reason    string
	tried     bool             // Install has been tried
	endpoints []netip.AddrPort // of cluster DNS
	tracked   []netip.AddrPort // endpoints that had to be asked through conntrack, of now or of before
	bypass    []netip.Prefix   // as configured
}

// newInterception plans what cfg wants and makes our own addresses exist, so that they can be listened on.
func newInterception(log *slog.Logger, cfg config.Config, endpoints []netip.AddrPort) (*interception, error) {
	t := &interception{log: log, mode: cfg.Intercept.Mode, endpoints: direct(cfg.Intercept, endpoints), bypass: cfg.Intercept.Bypass}
	switch {
	case cfg.Intercept.Mode == config.ModeOff:
		t.reason = "switched off (intercept.mode)"
		return t, nil
	case len(cfg.Intercept.VIPs) == 0:
		t.reason = "no virtual IP is configured (intercept.vips)"
		return t, nil
	}
	var err error
	if t.plan, err = planOf(cfg.Intercept, t.endpoints); err != nil {
		return nil, err
	}
	if t.in, err = intercept.Prepare(t.plan); errors.Is(err, intercept.ErrOwned) {
		return nil, err // another agent lives on this node: two would undo each other's work
	} else if err != nil {
		return t, t.without(err)
	}
	return t, nil
}

// planOf never fails for what package config has accepted.
func planOf(c config.Intercept, endpoints []netip.AddrPort) (*intercept.Plan, error) {
	ic := intercept.Default()
	ic.VIPs, ic.Block4, ic.Block6 = c.VIPs, c.Addresses4, c.Addresses6
	ic.Marks = intercept.Marks{Listener: c.Marks.Listener, Upstream: c.Marks.Upstream, LastResort: c.Marks.LastResort}
	ic.Endpoints, ic.Uplinks, ic.Scope, ic.Bypass = endpoints, c.Uplinks, c.Scope, c.Bypass
	ic.Rate, ic.Heartbeat, ic.ProbeName = c.Rate, c.Heartbeat, resolver.ProbeName
	return intercept.NewPlan(ic)
}

// direct are the endpoints that the rules can tell from others: not this machine's loopback, not what needs a zone, and not a
// virtual IP at another port, the way to which is kube-proxy's. Those are asked as any program would ask them.
func direct(c config.Intercept, endpoints []netip.AddrPort) []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(endpoints), func(e netip.AddrPort) bool {
		return e.Addr().IsLoopback() || e.Addr().Zone() != "" || slices.Contains(c.VIPs, e.Addr())
	})
}

// without goes on without interception because of err, or returns err where that is not wanted.
func (t *interception) without(err error) error {
	if t.mode == config.ModeOn {
		return err
	}
	t.mu.Lock()
	in := t.in
	t.in, t.reason = nil, reasonOf(err)
	t.mu.Unlock()
	t.log.Warn("goes on without interception: pods go on to ask cluster DNS", "reason", t.reason)
	if in != nil {
		if err := in.Close(); err != nil {
			t.log.Warn("interception is not taken back whole", "err", err)
		}
	}
	return nil
}

// reasonOf puts err into the words of an operator.
func reasonOf(err error) string {
	var taken *PortTakenError
	switch {
	case errors.As(err, &taken):
		return fmt.Sprintf("%v: it must listen on addresses of its own, not on all of this machine", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("not permitted, it needs uid 0 with CAP_NET_ADMIN and CAP_NET_BIND_SERVICE: %v", err)
	case errors.Is(err, intercept.ErrUnsupported):
		return "needs Linux"
	}
	return err.Error()
}

// get returns the interception in use, or nil.
func (t *interception) get() *intercept.Interception {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.in
}

// listeners are the addresses to listen on for intercepted questions.
func (t *interception) listeners() []netip.AddrPort {
	if t.get() == nil {
		return nil
	}
	var out []netip.AddrPort
	for _, l := range t.plan.Listeners() {
		out = append(out, netip.AddrPortFrom(l.Addr, config.DNSPort))
	}
	return out
}

// owns says whether addr is an address of ours that stands for a virtual IP, whether or not it is in use.
func (t *interception) owns(addr netip.Addr) bool {
	return t.plan != nil && slices.ContainsFunc(t.plan.Listeners(), func(l intercept.Listener) bool { return l.Addr == addr })
}

// mark is the SO_MARK of listening sockets; 0: none is needed.
func (t *interception) mark() uint32 {
	if t.get() == nil {
		return 0
	}
	return t.plan.Config().Marks.Listener
}

// installEvery is how often a table that could not be installed is tried again, with mode auto: the agent that held it
// may end.
const installEvery = 5 * time.Second

// install puts the table into the kernel. With mode auto it tries until it works or ctx ends, since what is in the way
// may go: an agent that is on its way out still owns the table.
func (t *interception) install(ctx context.Context) error {
	in := t.get()
	if in == nil {
		return nil
	}
	for {
		err := in.Install()
		t.mu.Lock()
		t.tried, t.reason = true, ""
		t.mu.Unlock()
		if err == nil || t.mode == config.ModeOn {
			return err
		}
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOSYS) {
			return t.without(err) // that does not go by itself
		}
		t.mu.Lock()
		t.reason = reasonOf(err)
		t.mu.Unlock()
		t.log.Warn("interception cannot be installed, tried again", "err", err, "in", installEvery)
		if !wait(ctx, installEvery) {
			return ctx.Err()
		}
	}
}

// run keeps the heartbeat until ctx ends.
func (t *interception) run(ctx context.Context, progress func() error) error {
	in := t.get()
	if in == nil {
		<-ctx.Done()
		return nil
	}
	return in.Run(ctx, func() error {
		if reason := t.trial.verdict(); reason != "" {
			return errors.New(reason)
		}
		return progress()
	})
}

// whenAlive is closed when everything that is to be intercepted is, or nothing is to be.
func (t *interception) whenAlive() <-chan struct{} {
	ch := make(chan struct{})
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for range 60 { // somewhat more than the second after which the caller asks again
			if t.check() == "" {
				close(ch)
				return
			}
			<-tick.C
		}
	}()
	return ch
}

// check says what keeps the interception from doing what it should; "" when nothing does.
func (t *interception) check() string {
	in := t.get()
	if in == nil {
		return ""
	}
	s, err := in.Status()
	return t.problem(&s, err)
}

// problem is check, of a status that has been read.
func (t *interception) problem(s *intercept.Status, err error) string {
	t.mu.Lock()
	tried, reason := t.tried, cmp.Or(t.reason, t.trial.verdict())
	t.mu.Unlock()
	switch {
	case !tried:
		return "not installed yet"
	case reason != "":
		return reason
	case err != nil:
		return err.Error()
	case !s.Installed || slices.ContainsFunc(s.Alive, func(a intercept.Alive) bool { return !a.Alive }):
		return cmp.Or(s.Reason, "the kernel has no heartbeat of ours")
	}
	return ""
}

// word says in one word how the interception is, for the log.
func (t *interception) word() string {
	if t.get() == nil {
		return api.Skip
	}
	if t.check() != "" {
		return api.Fail
	}
	return api.OK
}

// withdraw sends new questions to cluster DNS; what is open or queued is still ours.
func (t *interception) withdraw() {
	if in := t.get(); in != nil {
		if err := in.Withdraw(); err != nil {
			// The table goes in a moment anyway, and with the process at the latest.
			t.log.Warn("interception is not withdrawn", "err", err)
		}
	}
}

// close takes table and route away.
func (t *interception) close() {
	in := t.get()
	if in == nil {
		return
	}
	if err := in.Close(); err != nil {
		t.log.Error("interception is not taken back whole", "err", err)
	}
}

// change applies what of cfg can be changed while the table is in the kernel.
func (t *interception) change(cfg config.Config, endpoints []netip.AddrPort) error {
	in := t.get()
	if in == nil {
		return nil
	}
	t.mu.Lock()
	t.endpoints, t.bypass = direct(cfg.Intercept, endpoints), cfg.Intercept.Bypass
	untracked, bypassed := t.untracked(), t.bypassed()
	t.mu.Unlock()
	return errors.Join(in.SetEndpoints(untracked), in.SetScope(cfg.Intercept.Scope), in.SetBypass(bypassed))
}

// status is the part of the status document.
func (t *interception) status() (api.Interception, *intercept.Status) {
	out := api.Interception{Mode: string(t.mode), State: api.Skip}
	t.mu.Lock()
	in, untracked := t.in, t.untracked()
	out.Reason, out.Notes = t.reason, t.legNotes()
	t.mu.Unlock()
	if in == nil {
		if t.plan != nil {
			out.State = api.Warn // it is wanted and cannot be had
		}
		return out, nil
	}
	s, err := in.Status()
	out.State, out.Installed, out.Owned = api.OK, s.Installed, s.Owned
	out.Lapses, out.Missing, out.Uplinks, out.Packets = s.Lapses, s.Missing, s.Uplinks, packets(&s.Counters)
	for _, e := range untracked {
		out.Endpoints = append(out.Endpoints, e.String())
	}
	out.VIPs = vipsOf(t.plan, s.Alive)
	if s.RouteRestored > 0 {
		out.Notes = append(out.Notes, fmt.Sprintf("the route to our own addresses was deleted by someone and put back, %d times", s.RouteRestored))
	}
	if s.TableRestored > 0 {
		out.Notes = append(out.Notes, fmt.Sprintf("our tables were flushed by someone and put back, %d times", s.TableRestored))
	}
	switch problem := t.problem(&s, err); {
	case s.Withdrawn:
		out.State, out.Reason = api.Warn, "withdrawn: the agent stops, new questions go to cluster DNS"
	case problem != "":
		out.State, out.Reason = api.Fail, problem
	case s.Reason != "":
		out.State, out.Reason = api.Warn, s.Reason
	case len(out.Notes) > 0:
		out.State, out.Reason = api.Warn, out.Notes[0]
	}
	return out, &s
}

// vipsOf lists every VIP with what the kernel says of its two transports.
func vipsOf(plan *intercept.Plan, alive []intercept.Alive) []api.VIP {
	var out []api.VIP
	for _, l := range plan.Listeners() {
		v := api.VIP{VIP: l.VIP.String(), Listener: l.Addr.String()}
		for _, a := range alive {
			if a.VIP == l.VIP && a.Alive {
				v.UDP, v.TCP = v.UDP || a.Transport == intercept.UDP, v.TCP || a.Transport == intercept.TCP
			}
		}
		out = append(out, v)
	}
	return out
}

// packets names the kernel's counters in the words of the status document.
func packets(c *intercept.Counters) map[string]uint64 {
	return map[string]uint64{
		"matched": c.Matched, "served": c.Served, "stream": c.Stream, "answers": c.Answers, "unserved": c.Unserved,
		"limited": c.Limited, "bypassed": c.Bypassed, "outOfScope": c.OutOfScope, "resolvers": c.Resolvers, "uplink": c.Uplink,
		"loopback": c.Loopback, "lastResort": c.LastResort, "upstream": c.Upstream, "probes": c.Probes, "direct": c.Direct, "stray": c.Stray,
	}
}
