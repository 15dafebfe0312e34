package intercept

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Interception is a plan in force on this node. Its methods may be called concurrently. Prepare and Run must be called in the
// network namespace that is meant; the others work from anywhere.
type Interception struct {
	plan   *Plan
	kernel *kernel
	nft    *conn
	routes *routes

	mu        sync.Mutex
	cfg       Config   // the plan's, with what the setters have changed
	tables    []*table // in the kernel; nil before Install and after Close
	uplinks   []string // in force
	withdrawn bool
	closed    bool
	drift     error // why the route or the uplinks could not be put right

	pulse pulse

	restored atomic.Uint64
	flushed  atomic.Uint64
	lapses   atomic.Uint64
}

// pulse is what the prober shares with the others. It is not under mu, which is held while the kernel is asked: rules and routes
// are changed one after the other for the whole node, and behind somebody else's change that can take seconds.
type pulse struct {
	wanted  atomic.Bool // the tables are in force, and not withdrawn
	mu      sync.Mutex
	beat    error  // what beat said last
	trouble string // what the prober met last
}

// Prepare makes the addresses of the plan local to this node, so that the agent can bind them, and removes what an agent that
// was killed on a kernel without owned tables has left: its rules drop what the new agent asks itself, or let that count as a
// heartbeat before there is an upstream. No packet takes another way. It fails with ErrOwned when another live process has a
// table of the same name.
func Prepare(p *Plan) (*Interception, error) {
	nft, err := dialNetfilter()
	if err != nil {
		return nil, err
	}
	i := &Interception{plan: p, kernel: newKernel(), nft: nft, cfg: p.Config()}
	if err := i.removeLeftovers(); err != nil {
		nft.close()
		return nil, fmt.Errorf("cannot prepare the interception: %w", err)
	}
	if i.routes, err = openRoutes(p.families); err == nil {
		if err = i.routes.unused(); err != nil {
			err = errors.Join(err, i.routes.close(false))
		} else if _, err = i.routes.ensure(); err != nil {
			err = errors.Join(err, i.routes.close(true))
		}
	}
	if err != nil {
		nft.close()
		return nil, fmt.Errorf("cannot prepare the interception: %w", err)
	}
	return i, nil
}

// Install puts the tables in force, in one transaction, in place of what a killed agent may have left. Nothing is given to the
// agent yet: that begins with its first answer to the prober (Run). Where the kernel lacks a feature the rest is installed
// and Status names what is missing. A second call ends a Withdraw; open connections stay where they are.
func (i *Interception) Install() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return fmt.Errorf("cannot install the interception: %w", errClosed)
	}
	if i.tables != nil {
		return i.resume()
	}
	if err := i.awaitSilence(); err != nil {
		return fmt.Errorf("cannot install the interception: %w", err)
	}
	i.uplinks = i.cfg.Uplinks
	if len(i.uplinks) == 0 {
		found, err := i.routes.uplinks()
		if err != nil {
			return fmt.Errorf("cannot install the interception: %w", err)
		}
		i.uplinks = found
	}
	for {
		old, err := i.leftovers()
		if err != nil {
			return fmt.Errorf("cannot install the interception: %w", err)
		}
		err = i.install(old)
		var refused *refusal
		switch {
		case err == nil:
			return nil
		case errors.As(err, &refused) && i.kernel.learn(refused):
			continue // without that feature; each can be learnt once only
		case errors.Is(err, unix.EPERM):
			return fmt.Errorf("cannot install the interception: %w (the agent needs CAP_NET_ADMIN)", err)
		}
		return fmt.Errorf("cannot install the interception: %w", err)
	}
}

var errClosed = errors.New("it is closed")

// install sends the one transaction.
func (i *Interception) install(old []leftover) error {
	cfg := i.cfg
	cfg.Uplinks = i.uplinks
	var b batch
	for _, l := range old {
		b.uninstall(l.name, l.family)
	}
	var tables []*table
	for _, f := range i.plan.families {
		t := newTable(&cfg, f)
		if err := b.install(t, i.kernel); err != nil {
			return err
		}
		tables = append(tables, t)
	}
	if err := i.nft.transact(&b); err != nil {
		return err
	}
	i.tables, i.withdrawn = tables, false
	i.pulse.wanted.Store(true)
	return nil
}

// leftover is a table of our name that is in the kernel.
type leftover struct {
	name   string
	family uint8
	owner  uint32 // netlink port, 0: nobody's
}

// leftovers returns the tables of our name that a transaction of ours may remove. Another process's table is an error.
func (i *Interception) leftovers() ([]leftover, error) {
	found, err := i.nft.tables()
	if err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(l leftover) bool { return l.name != i.cfg.Table })
	for _, l := range found {
		if l.owner != 0 && l.owner != i.nft.port {
			return nil, fmt.Errorf("%w: %s, %s; stop that agent (its pod or its unit), or give this one another table name and other own addresses",
				ErrOwned, l, process(l.owner))
		}
	}
	return found, nil
}

// removeLeftovers removes the tables that a dead agent has left.
func (i *Interception) removeLeftovers() error {
	if err := i.awaitSilence(); err != nil {
		return err
	}
	old, err := i.leftovers()
	if err != nil {
		return err
	}
	var b batch
	for _, l := range old {
		b.uninstall(l.name, l.family)
	}
	return i.nft.transact(&b)
}

// awaitSilence waits until nobody keeps an un-owned table of our name alive. On kernels without owned tables that is the only
// trace of another live agent; of one that was just killed it fades within a heartbeat.
func (i *Interception) awaitSilence() error {
	deadline := time.Now().Add(i.cfg.Heartbeat + 200*time.Millisecond)
	for {
		found, err := i.leftovers()
		if err != nil {
			return err
		}
		var alive *leftover
		for _, l := range found {
			if n, err := i.nft.aliveIn(l.name, l.family); err != nil {
				return err
			} else if l.owner == 0 && len(n) > 0 {
				alive = &l
			}
		}
		if alive == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: %s, whose heartbeat goes on; stop that agent (its pod or its unit), or give this one another table name "+
				"and other own addresses", ErrOwned, alive)
		}
		time.Sleep(50 * time.Millisecond) // only after a kill, on a kernel older than 5.12
	}
}

// resume lets answers to the prober count again. i.mu is held.
func (i *Interception) resume() error {
	var b batch
	for _, t := range i.tables {
		b.clear(t, i.kernel, "probed")
		for n, r := range t.chain("probed").rules {
			if err := b.rule(machine{t.family, i.kernel}, t.name, "probed", n, r); err != nil {
				return err
			}
		}
	}
	if err := i.nft.transact(&b); err != nil {
		return fmt.Errorf("cannot resume the interception: %w", err)
	}
	i.withdrawn = false
	i.pulse.wanted.Store(true)
	return nil
}

// Withdraw gives new questions to cluster DNS from the next packet on, in one transaction, and stops the prober. Connections
// that the agent accepted go on, queued questions can still be answered, and answers still get the VIP as their source.
func (i *Interception) Withdraw() error {
	i.pulse.wanted.Store(false) // first, so that the prober asks no more whatever comes
	i.mu.Lock()
	defer i.mu.Unlock()
	i.withdrawn = true
	i.pulse.wanted.Store(false) // again, an Install may have ended in between
	var b batch
	for _, t := range i.tables {
		b.empty(t, i.kernel, "alive")
		// An answer to the prober that is on its way now would renew @alive after it was emptied.
		b.clear(t, i.kernel, "probed")
		if err := b.rule(machine{t.family, i.kernel}, t.name, "probed", 0, all(untrack{}, accept)); err != nil {
			return err
		}
	}
	if err := i.nft.transact(&b); err != nil {
		return fmt.Errorf("cannot withdraw the interception: %w", err)
	}
	return nil
}

// Close removes the tables, in one transaction, then the route. It may be called at any time and more than once; Run should have ended.
// Questions that the agent has not answered by now are lost: Withdraw and drain first.
func (i *Interception) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil
	}
	i.closed = true
	i.pulse.wanted.Store(false)
	var errs []error
	var b batch
	for _, t := range i.tables {
		b.uninstall(t.name, i.kernel.family(t.family))
	}
	i.tables = nil
	if err := i.nft.transact(&b); err != nil && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, err)
	}
	others, err := i.leftovers() // another agent, older than this one or newer, needs the route
	errs = append(errs, i.routes.close(err == nil && len(others) == 0), i.nft.close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot remove the interception: %w", err)
	}
	return nil
}

// SetEndpoints changes the cluster DNS endpoints, in one transaction. Endpoints of a family for which the plan made no table
// (no VIP and no endpoint of it) stay tracked.
func (i *Interception) SetEndpoints(endpoints []netip.AddrPort) error {
	return i.set("endpoints", func(c *Config) { c.Endpoints = slices.Clone(endpoints) }, "endpoints", "resolvers")
}

// SetBypass changes the sources that are never intercepted, in one transaction. Open TCP connections stay where they are.
func (i *Interception) SetBypass(sources []netip.Prefix) error {
	return i.set("bypass", func(c *Config) { c.Bypass = slices.Clone(sources) }, "bypass")
}

// SetScope changes the sources that may be intercepted, in one transaction; empty: all.
func (i *Interception) SetScope(sources []netip.Prefix) error {
	return i.set("scope", func(c *Config) { c.Scope = slices.Clone(sources) }, "scope")
}

func (i *Interception) set(what string, change func(*Config), names ...string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	cfg := i.cfg.clone()
	change(&cfg)
	if err := cfg.validateAddresses(); err != nil {
		return fmt.Errorf("cannot set %s: %w", what, err)
	}
	cfg.Uplinks = i.uplinks
	if err := i.replace(&cfg, names...); err != nil {
		return fmt.Errorf("cannot set %s: %w", what, err)
	}
	change(&i.cfg)
	return nil
}

// replace fills the named sets of all tables anew, in one transaction. i.mu is held.
func (i *Interception) replace(cfg *Config, names ...string) error {
	var b batch
	for _, t := range i.tables {
		now := newTable(cfg, t.family)
		for _, name := range names {
			b.empty(t, i.kernel, name)
			b.fill(t, i.kernel, now.set(name), now.set(name).elems)
		}
	}
	return i.nft.transact(&b)
}

// Status reads the counters and the heartbeats from the kernel.
func (i *Interception) Status() (Status, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := Status{
		Installed: i.tables != nil, Owned: i.tables != nil && !i.kernel.lacks(featureOwner), Withdrawn: i.withdrawn,
		Uplinks: slices.Clone(i.uplinks), RouteRestored: i.restored.Load(), TableRestored: i.flushed.Load(), Lapses: i.lapses.Load(), Missing: i.kernel.lost(),
	}
	alive := map[aliveKey]bool{}
	counts := map[string]uint64{}
	for _, t := range i.tables {
		fam := i.kernel.family(t.family)
		found, err := i.nft.aliveIn(t.name, fam)
		if err != nil {
			return s, fmt.Errorf("cannot read the interception's state: %w", err)
		}
		maps.Copy(alive, found)
		if err := i.nft.counters(t.name, fam, counts); err != nil {
			return s, fmt.Errorf("cannot read the interception's counters: %w", err)
		}
	}
	s.Counters = countersFrom(counts)
	var deaf []string
	for _, l := range i.plan.listeners {
		for _, t := range []Transport{UDP, TCP} {
			on := alive[aliveKey{l.Addr, t}]
			s.Alive = append(s.Alive, Alive{Listener: l, Transport: t, Alive: on})
			if !on {
				deaf = append(deaf, fmt.Sprintf("%s for %s", t, l.VIP))
			}
		}
	}
	s.Reason = i.reason(deaf)
	return s, nil
}

// reason tells why not everything is intercepted, the most telling cause first.
func (i *Interception) reason(deaf []string) string {
	i.pulse.mu.Lock()
	beat, trouble := i.pulse.beat, i.pulse.trouble
	i.pulse.mu.Unlock()
	switch {
	case i.closed:
		return "closed"
	case i.tables == nil:
		return "not installed"
	case i.withdrawn:
		return "withdrawn: the agent is stopping"
	case i.drift != nil:
		return i.drift.Error()
	case beat != nil:
		return "the agent makes no progress: " + beat.Error()
	case len(deaf) > 0 && trouble != "":
		return fmt.Sprintf("the prober got no answer by %s: %s", join(deaf), trouble)
	case len(deaf) > 0:
		return fmt.Sprintf("the prober got no answer by %s", join(deaf))
	}
	return ""
}
