// Package agent puts the parts together: it starts them in order, follows changes of the configuration, says how they
// are, and stops them in the order in which nothing is lost. It is the only package that knows all the others.
//
// Start (start, bringUp): configuration -> limits of the process -> own addresses' route -> sockets -> self-probe ->
// upstreams -> first answer of one -> interception and its heartbeat -> ready.
// Stop (stop): not ready -> probes stop and the heartbeat is emptied, new questions go to cluster DNS -> what is queued
// and in flight is answered, TCP connections end -> the table goes, then the route -> the rest.
//
// A crash is as safe as a stop, and no goroutine of ours recovers from a panic: the kernel takes the table away with the
// process, and pods are answered by cluster DNS from the next question on.
//
// It answers no questions, writes no rules, judges no upstream and parses no file itself.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dnslet/dnslet/admin"
	"github.com/dnslet/dnslet/api"
	"github.com/dnslet/dnslet/cache"
	"github.com/dnslet/dnslet/config"
	"github.com/dnslet/dnslet/resolver"
)

// Options are what a process gives its agent. Log and Getenv are required.
type Options struct {
	File    string              // configuration file; empty: none
	Set     []string            // assignments "key=value" over it
	Version string              // as status and metrics show it
	Log     io.Writer           // where log lines go
	Getenv  func(string) string // os.Getenv; what the service manager has to say
}

// Agent is one node's DNS. New makes it, Run is its life; the other methods may be called by anybody at any time.
type Agent struct {
	opts    Options
	log     *slog.Logger
	level   slog.LevelVar
	first   config.Config // what this process began with: what only a restart changes is compared with it
	started time.Time
	host    string
	kernel  string

	notify    *notifier
	cache     *cache.Cache
	server    *resolver.Server
	upstreams *upstreams
	take      *interception
	http      *admin.Server
	recent    *recent
	limits    processLimits

	mu    sync.Mutex // guards what follows
	cfg   config.Config
	load  api.ConfigLoad
	phase string

	watcher *config.Watcher
	serving atomic.Bool   // server, upstreams and take are there and stay
	ready   chan struct{} // closed when the agent is ready for the first time
	failed  chan error    // a part that ended with an error; one suffices
}

// New reads the configuration and checks it whole. It opens nothing and changes nothing. An error of the configuration
// is config.Errors.
func New(o Options) (*Agent, error) {
	a := &Agent{
		opts: o, started: time.Now(), phase: api.Starting, recent: &recent{},
		ready: make(chan struct{}), failed: make(chan error, 1),
	}
	var data []byte
	var err error
	if o.File != "" {
		if data, err = os.ReadFile(o.File); err != nil {
			return nil, fmt.Errorf("cannot read configuration: %w", err)
		}
	}
	cfg, err := config.Parse(data, o.File, o.Set...)
	if err != nil {
		return nil, err
	}
	a.first, a.cfg = cfg, cfg
	a.level.Set(cfg.Log.Level)
	a.log = newLogger(o.Log, cfg.Log.Format, &a.level)
	a.watcher = config.NewWatcher(o.File, data, o.Set, cfg, a.log)
	a.load = api.ConfigLoad{File: o.File, Loaded: time.Now(), OK: true, Warnings: texts(cfg.Warnings())}
	if a.host, err = os.Hostname(); err != nil {
		a.host = "localhost"
	}
	return a, nil
}

func newLogger(w io.Writer, format config.LogFormat, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if format == config.LogJSON {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// WhenReady returns a channel that is closed when the agent is ready for the first time.
func (a *Agent) WhenReady() <-chan struct{} { return a.ready }

// Addrs returns the addresses on which questions are answered, once WhenReady is closed.
func (a *Agent) Addrs() []netip.AddrPort { return a.server.Addrs() }

// AdminAddr returns where HTTP is served, once WhenReady is closed.
func (a *Agent) AdminAddr() netip.AddrPort { return a.http.Addr() }

// Run is the life of the agent. It returns nil after an orderly stop, which the end of ctx begins, or what kept the
// agent from starting or going on; then, too, everything has been taken back.
func (a *Agent) Run(ctx context.Context) (err error) {
	notify, nerr := newNotifier(a.opts.Getenv)
	if nerr != nil {
		a.log.Warn("service manager is not told", "err", nerr)
	}
	a.notify = notify
	defer a.notify.close()

	var s stack // what is running, to be stopped in reverse
	defer s.unwind()
	if err := a.start(&s); err != nil {
		return err
	}
	followers := newGroup()
	s.push(followers.stop)
	followers.run(a.bringUp)
	followers.run(a.follow)
	followers.run(a.watch)
	followers.run(a.sample)

	select {
	case <-ctx.Done():
	case err = <-a.failed:
		a.log.Error("agent cannot go on", "err", err)
	}
	a.stopping(followers)
	return err
}

// start does, in order, what has to work before the agent can serve, and pushes on s how each step is undone.
func (a *Agent) start(s *stack) error {
	cfg := a.first
	a.setLimits(cfg)
	a.log.Info("agent starts", "version", a.opts.Version, "file", a.opts.File, "pid", os.Getpid(), "kernel", a.kernel)

	// HTTP first: its port is what a second agent on the node fails at, before it can touch anything.
	if err := a.listenHTTP(cfg); err != nil {
		return err
	}
	s.push(a.runPart(a.http.Run).stop)

	var err error
	if a.cache, err = newCache(cfg.Cache); err != nil {
		return err
	}
	s.push(a.runPart(a.cache.Run).stop)
	a.upstreams = newUpstreams(a.log, cfg)
	s.push(a.upstreams.stop)
	zones, err := a.upstreams.apply(cfg, cfg.Self(isLocal))
	if err != nil {
		return err
	}
	a.warn(cfg)
	if a.take, err = newInterception(a.log, cfg, a.upstreams.clusterDNS()); err != nil {
		return err
	}
	s.push(a.take.close)
	if err := a.listen(cfg, zones); err != nil {
		return err
	}
	s.push(a.runPart(a.server.Run).stop) // the end of Run answers what is queued and in flight, and ends TCP connections
	a.serving.Store(true)
	a.setProcs(len(a.server.Addrs()))
	if err := a.selfProbe(); err != nil {
		return err
	}
	a.upstreams.run()
	a.log.Info("listening", "addrs", a.server.Addrs(), "admin", a.http.Addr())
	return nil
}

// bringUp waits for the first answer of cluster DNS, takes the node's questions over, and is then ready. It never gives
// up: an upstream may come hours later, and until then nothing is taken from cluster DNS.
func (a *Agent) bringUp(ctx context.Context) {
	if !a.waitFor(ctx, "first answer of an upstream", a.upstreams.firstAnswer) {
		return
	}
	if err := a.take.install(ctx); err != nil {
		if ctx.Err() == nil {
			a.fail(err)
		}
		return
	}
	beat := a.runPart(func(ctx context.Context) error { return a.take.run(ctx, a.server.Progress) })
	defer beat.stop()
	if !a.waitFor(ctx, "heartbeat of the interception", a.take.whenAlive) {
		return
	}
	a.mu.Lock()
	a.phase = api.Serving
	a.mu.Unlock()
	close(a.ready)
	a.log.Info("ready", "took", time.Since(a.started).Round(time.Millisecond), "interception", a.take.word())
	a.tell(a.notify.ready("serving"))
	a.take.tend(ctx, a.upstreams, a.server.Stats)
}

// waitFor waits until the channel that of returns is closed and keeps the service manager patient meanwhile; false: ctx
// ended first. of is asked again every second.
func (a *Agent) waitFor(ctx context.Context, what string, of func() <-chan struct{}) bool {
	const again = 10 * time.Second
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	said := time.Now()
	for {
		select {
		case <-of():
			return ctx.Err() == nil
		case <-ctx.Done():
			return false
		case <-tick.C:
			if time.Since(said) < again {
				continue
			}
			said = time.Now()
			a.log.Warn("still waiting, nothing is taken from cluster DNS", "for", what)
			// systemd counts from its own start timeout otherwise and would kill an agent that only waits.
			a.tell(a.notify.send(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (3*again).Microseconds()), statusLine("waiting for the "+what)))
		}
	}
}

// stopping begins the stop: nobody is told ready any more, nothing is begun any more, and new questions go to cluster
// DNS from here on. What was pushed in start does the rest: drain, then table and route, then the upstreams and HTTP.
func (a *Agent) stopping(followers *group) {
	a.mu.Lock()
	a.phase = api.Draining
	a.mu.Unlock()
	a.tell(a.notify.stopping())
	a.log.Info("agent stops")
	a.take.withdraw()
	followers.stop()
	a.take.withdraw() // bringUp may have installed in the meantime
}

// fail ends Run with err.
func (a *Agent) fail(err error) {
	select {
	case a.failed <- err:
	default: // another part was first
	}
}

// tell logs that the service manager was not reached. DNS goes on without it.
func (a *Agent) tell(err error) {
	if err != nil {
		a.log.Warn("service manager is not told", "err", err)
	}
}

// warn logs what the configuration's writer may not have meant, each thing once: what the configuration alone tells, and
// what became of it on this machine.
func (a *Agent) warn(cfg config.Config) {
	var said []string
	for _, w := range cfg.Warnings() {
		a.log.Warn("configuration", "path", w.Path, "reason", w.Reason)
		said = append(said, w.Reason)
	}
	for name, reasons := range a.upstreams.warnings() {
		for _, reason := range reasons {
			if !slices.Contains(said, reason) {
				a.log.Warn("configuration", "path", "upstreams."+name, "reason", reason)
			}
		}
	}
}

func (a *Agent) config() config.Config {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cfg
}

// runPart runs fn until it is stopped; if it ends with an error by itself, the agent ends.
func (a *Agent) runPart(fn func(context.Context) error) *group {
	g := newGroup()
	g.run(func(ctx context.Context) {
		if err := fn(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
			a.fail(err)
		}
	})
	return g
}

// group is goroutines that end together.
type group struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newGroup() *group {
	g := &group{}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g
}

func (g *group) run(fn func(context.Context)) { g.wg.Go(func() { fn(g.ctx) }) }

// stop ends the goroutines and waits for them. It may be repeated.
func (g *group) stop() {
	g.cancel()
	g.wg.Wait()
}

// stack is what has been started, to be undone in reverse.
type stack []func()

func (s *stack) push(undo func()) { *s = append(*s, undo) }

func (s *stack) unwind() {
	for i := len(*s) - 1; i >= 0; i-- {
		(*s)[i]()
	}
}
