package upstream

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dnslet/dnslet/wire"
)

// Group is the endpoints of one resolver service. All methods may be called concurrently.
type Group struct {
	cfg   Config
	log   *slog.Logger
	start time.Time
	stats Stats
	udp   datagrams

	list       atomic.Pointer[list]
	lastResort *endpoint // nil: none

	epoch      atomic.Uint64
	outage     atomic.Bool // a failure has been handed out while nobody was heard, or every endpoint is down
	first      chan struct{}
	firstOnce  sync.Once
	kick       chan struct{} // wakes Run: somebody needs a probe
	markLogged sync.Once

	extra struct {
		sync.Mutex
		hedges, samples budget
	}
	goodProbe atomic.Pointer[[]byte] // a question that was answered fast lately
	goodAt    atomic.Int64

	updating  sync.Mutex // serializes changes of list
	done      chan struct{}
	closeOnce sync.Once
}

// list is the endpoints at one moment. It is never changed but replaced, at an update, and at the end of an outage so that
// every waiting question learns of it.
type list struct {
	all       []*endpoint
	recovered bool          // it replaces one that was all dead
	replaced  chan struct{} // closed when a newer list is there
}

// New checks c and returns a group that can be asked at once. It must be ended, by Run or by Close.
func New(c Config) (*Group, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("cannot build upstream group %q: %w", c.Name, err)
	}
	g := &Group{
		cfg: c, log: c.Logger, start: time.Now(),
		first: make(chan struct{}), kick: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	g.extra.hedges, g.extra.samples = budget{earn: hedgeEarn}, budget{earn: sampleEarn}
	g.udp = datagrams{max: c.MaxInFlight, clock: g.now, group: g}
	g.udp.sweeper = time.AfterFunc(time.Hour, g.udp.sweep)
	g.udp.sweeper.Stop()
	if c.LastResort != (netip.AddrPort{}) {
		g.lastResort = g.newEndpoint(Endpoint{Addr: c.LastResort}, c.LastResortMark)
		g.lastResort.lastResort = true
	}
	g.list.Store(&list{all: g.merge(nil, c.Endpoints), replaced: make(chan struct{})})
	if err := g.udp.port.start(&g.udp); err != nil {
		return nil, fmt.Errorf("cannot build upstream group %q: %w", c.Name, err)
	}
	return g, nil
}

func (g *Group) newEndpoint(e Endpoint, mark uint32) *endpoint {
	ep := newEndpoint(e, mark)
	ep.tcp = &tcpPool{ep: ep, group: g}
	return ep
}

// merge returns the endpoints for addresses, taking over those of old that stay.
func (g *Group) merge(old []*endpoint, endpoints []Endpoint) []*endpoint {
	var all []*endpoint
	for _, e := range endpoints {
		e.Addr = netip.AddrPortFrom(e.Addr.Addr().Unmap(), e.Addr.Port())
		same := func(ep *endpoint) bool { return ep.Endpoint == e }
		if slices.ContainsFunc(all, same) {
			continue
		}
		if i := slices.IndexFunc(old, same); i >= 0 {
			all = append(all, old[i])
		} else {
			all = append(all, g.newEndpoint(e, g.cfg.Mark))
		}
	}
	return all
}

// Update replaces the endpoints. Those that stay keep what is known of them; those that go are left at once: a question
// that waits for one is asked elsewhere. It fails, and changes nothing, if an endpoint is unusable.
func (g *Group) Update(endpoints []Endpoint) error {
	if err := validateEndpoints(endpoints); err != nil {
		return fmt.Errorf("cannot update upstream group %q: %w", g.cfg.Name, err)
	}
	g.updating.Lock()
	select {
	case <-g.done:
		g.updating.Unlock()
		return ErrClosed
	default:
	}
	old := g.list.Load()
	all := g.merge(old.all, endpoints)
	var left []*endpoint
	for _, e := range old.all {
		if !slices.Contains(all, e) {
			e.gone.Store(true)
			left = append(left, e)
		}
	}
	g.replace(old, &list{all: all})
	g.updating.Unlock()
	for _, e := range left {
		e.tcp.close()
	}
	g.wake()
	return nil
}

// replace publishes next in place of old and tells whoever waits. Called with updating held.
func (g *Group) replace(old, next *list) {
	next.replaced = make(chan struct{})
	g.list.Store(next)
	close(old.replaced)
}

// Close ends the group: sockets and connections are closed, waiting Exchanges return ErrClosed. It may be repeated.
func (g *Group) Close() {
	g.closeOnce.Do(func() {
		g.updating.Lock()
		close(g.done)
		g.updating.Unlock()
		g.udp.close()
		for _, e := range g.everyone() {
			e.tcp.close()
		}
		for _, e := range g.everyone() {
			e.tcp.wg.Wait()
		}
	})
}

// everyone returns the endpoints and the last resort.
func (g *Group) everyone() []*endpoint {
	all := slices.Clone(g.list.Load().all)
	if g.lastResort != nil {
		all = append(all, g.lastResort)
	}
	return all
}

// Healthy reports whether some endpoint is not held for dead. The last resort does not count.
func (g *Group) Healthy() bool {
	for _, e := range g.list.Load().all {
		if State(e.state.Load()) != Down {
			return true
		}
	}
	return false
}

// Epoch counts the outages that have ended: it grows when an endpoint or the last resort comes back after none was
// healthy, or after an Exchange has failed without any endpoint being heard meanwhile. A failure remembered from an earlier epoch says nothing any more.
func (g *Group) Epoch() uint64 { return g.epoch.Load() }

// FirstAnswer returns a channel that is closed at the first valid response ever, to a question or a probe.
func (g *Group) FirstAnswer() <-chan struct{} { return g.first }

// Status describes every endpoint, the last resort at the end.
func (g *Group) Status() []EndpointStatus {
	now := g.now()
	var s []EndpointStatus
	for _, e := range g.everyone() {
		s = append(s, e.status(now))
	}
	return s
}

// now is the group's clock: nanoseconds since it was made.
func (g *Group) now() int64 { return int64(time.Since(g.start)) }

// received takes a message that has come to a. It reports whether it is a response to a, which ends the attempt; anything
// else is counted and forgotten, and a waits on. msg is the caller's, view its scratch.
func (g *Group) received(a *attempt, view *wire.Answer, msg []byte) bool {
	if wire.MsgID(msg) != a.id {
		g.stats.Mismatched.Add(1)
		return false
	}
	err := g.parse(view, msg, a.question)
	if errors.Is(err, wire.ErrMismatch) {
		g.stats.Mismatched.Add(1)
		return false
	}
	if !a.told.CompareAndSwap(false, true) {
		return true
	}
	now := g.now()
	a.rtt = now - a.sent
	switch {
	case view.Truncated && !a.byTCP:
		a.short = true // where it was cut does not matter
	case err != nil:
		g.stats.Malformed.Add(1)
		a.err = err
	}
	a.kind = view.Kind
	// A time says something about the endpoint if it is of its own transport and of an answer that took some work.
	sample := a.err == nil && a.byTCP == (a.ep.Transport == TCP) && a.kind != wire.Failure && a.purpose != forHealth
	ch := a.ep.onAnswer(a.sent, now, sample)
	if sample && a.purpose == forClient {
		g.rememberGood(a, now)
	}
	g.firstOnce.Do(func() { close(g.first) })
	ep := a.ep
	if a.events != nil {
		if a.err == nil {
			a.resp = append(a.room[:0], msg...)
		}
		a.events <- a
	}
	g.moved(ep, ch) // after the answer: it may make others ask again
	return true
}

// parse is view.Parse, but a bug in there costs one answer, not the process.
func (g *Group) parse(view *wire.Answer, msg, question []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			g.stats.Panics.Add(1)
			g.log.Error("panic while parsing an answer", slog.String("upstream", g.cfg.Name), slog.Any("panic", p))
			err = wire.ErrMalformed
		}
	}()
	return view.Parse(msg, question)
}

// failed takes an attempt that gets no answer.
func (g *Group) failed(a *attempt, err error) {
	if !a.told.CompareAndSwap(false, true) {
		return
	}
	a.err = err
	if !errors.Is(err, ErrClosed) && g.stats.count(err) && a.purpose != forHealth { // probes are judged by probeDue
		g.moved(a.ep, a.ep.onLoss(a.sent))
	}
	if a.events != nil {
		a.events <- a
	}
}

// moved follows an endpoint's change of state.
func (g *Group) moved(e *endpoint, ch change) {
	if ch.from == ch.to {
		return
	}
	addr := slog.String("endpoint", e.String())
	switch ch.to {
	case Down:
		g.stats.Ejections.Add(1)
		g.log.Warn("endpoint held for dead", slog.String("upstream", g.cfg.Name), addr)
		if !g.Healthy() && !g.outage.Swap(true) {
			g.log.Error("no endpoint healthy", slog.String("upstream", g.cfg.Name))
		}
		g.wake()
	case Suspect:
		g.wake()
	case Up:
		if ch.from == Down {
			g.stats.Recoveries.Add(1)
			g.log.Info("endpoint back in service", slog.String("upstream", g.cfg.Name), addr)
		}
		if g.outage.Swap(false) {
			g.recovered()
		}
	}
}

// recovered ends an outage: what failed before may be asked again, and what waits is asked again at once.
func (g *Group) recovered() {
	g.epoch.Add(1)
	g.updating.Lock()
	defer g.updating.Unlock()
	old := g.list.Load()
	g.replace(old, &list{all: old.all, recovered: true})
}

// markRefused notes that sockets to e go without their mark.
func (g *Group) markRefused(e *endpoint, err error) {
	g.stats.MarkRefused.Add(1)
	e.markRefused.Store(true)
	g.markLogged.Do(func() {
		g.log.Warn("cannot mark upstream sockets", slog.String("upstream", g.cfg.Name), slog.Any("error", err))
	})
}

// wake makes Run look who needs a probe.
func (g *Group) wake() {
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

// send asks a's endpoint. query is a whole message; its ID is overwritten. On an error a is over.
func (g *Group) send(a *attempt, query []byte) error {
	a.sent = g.now()
	a.ep.asked.Add(1)
	g.stats.Asked.Add(1)
	if a.byTCP || a.ep.Transport == TCP {
		return a.ep.tcp.ask(a, query)
	}
	if err := drawID(a); err != nil {
		return err
	}
	wire.SetMsgID(query, a.id)
	return g.udp.ask(a, query)
}
