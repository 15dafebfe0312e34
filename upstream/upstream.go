// Package upstream asks another resolver: a Group is the set of endpoints of one resolver service, and Exchange
// carries one question to it and brings back one answer, or an error, within a fixed budget.
//
// Each endpoint has its own latency and health, learnt from the traffic itself. A question goes to an endpoint that is
// in service and near the fastest; a second one is asked when the first is slower than it usually is (hedge.go), and at
// once when it fails. What is silent is held for dead after a few losses and probed until it answers (health.go).
// When every endpoint fails there is the last resort, an address that reaches the service in some other way.
// exchange.go is the life of one question and the file to read first.
//
// The package does not cache, does not know zones or clients, does not watch Kubernetes and does not judge what an
// answer says beyond "is it well formed, and is it the answer to this question".
package upstream

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// What Exchange can fail with, apart from the error of its context.
var (
	// ErrNoEndpoint: the group has neither an endpoint nor a last resort.
	ErrNoEndpoint = errors.New("no endpoint")
	// ErrTimeout: nothing usable came within the budget.
	ErrTimeout = errors.New("no answer within the budget")
	// ErrOverloaded: the bound on open sockets is reached, or the process has no descriptors left. Nothing was sent.
	ErrOverloaded = errors.New("too many questions in flight")
	// ErrUnreachable: every attempt failed at once (refused, no route, not permitted); no use to wait.
	ErrUnreachable = errors.New("no endpoint reachable")
	// ErrQuery: the query is not one plain question that can be forwarded.
	ErrQuery = errors.New("not a forwardable question")
	// ErrClosed: the group has ended.
	ErrClosed = errors.New("upstream group closed")
)

// Transport is how an endpoint is asked.
type Transport uint8

const (
	// UDP asks by a datagram from a fresh socket, and again by TCP when the answer is truncated.
	UDP Transport = iota
	// TCP asks over persistent connections only.
	TCP
)

// String returns "udp" or "tcp".
func (t Transport) String() string {
	if t == TCP {
		return "tcp"
	}
	return "udp"
}

// Endpoint is one server of a group. Comparable; two equal ones are the same endpoint.
type Endpoint struct {
	Addr      netip.AddrPort
	Transport Transport
}

// String returns "udp://192.0.2.1:53".
func (e Endpoint) String() string { return e.Transport.String() + "://" + e.Addr.String() }

// Defaults of Config and the reasons for them.
const (
	// DefaultBudget: c-ares asks again after 2 s, musl after 2.5, glibc after 5; something must be said before.
	DefaultBudget = 1800 * time.Millisecond
	// DefaultProbeEvery: four probes fit into the second within which an outage has to end with its cause.
	DefaultProbeEvery = 250 * time.Millisecond
	// DefaultMaxInFlight is the most sockets a group opens where RLIMIT_NOFILE allows more. A UDP socket costs the kernel
	// about 2.5 KiB, so this is 10 MiB.
	DefaultMaxInFlight = 4096
)

// Config is what a Group is made of. Durations and MaxInFlight must be positive: start from DefaultConfig.
type Config struct {
	// Name appears in logs and in Status, nowhere on the wire.
	Name string
	// Endpoints may be empty at first; see Update. Duplicates are merged.
	Endpoints []Endpoint
	// LastResort is asked, by UDP, when every endpoint fails or is held for dead. The zero value: there is none.
	LastResort netip.AddrPort
	// Mark is the SO_MARK of sockets to endpoints, LastResortMark of those to the last resort; 0: no mark. Where the
	// kernel refuses them (no CAP_NET_ADMIN) the group works without and Status says so.
	Mark, LastResortMark uint32
	// Budget is the longest an Exchange takes.
	Budget time.Duration
	// MaxInFlight bounds the open UDP sockets, those that linger for a late answer included.
	MaxInFlight int
	// ProbeEvery is the pause between two probes of an endpoint that is held for dead or suspected.
	ProbeEvery time.Duration
	// Logger hears of ejections and recoveries; nil discards.
	Logger *slog.Logger
}

// DefaultConfig returns a Config with every default set; name, endpoints, last resort and marks are left to the caller.
// MaxInFlight is a quarter of RLIMIT_NOFILE, at most DefaultMaxInFlight: clients and other groups need descriptors too.
func DefaultConfig() Config {
	return Config{
		Budget:      DefaultBudget,
		MaxInFlight: maxInFlight(),
		ProbeEvery:  DefaultProbeEvery,
	}
}

// validate says what is wrong with c.
func (c *Config) validate() error {
	switch {
	case c.Budget <= 0:
		return fmt.Errorf("budget %v is not positive", c.Budget)
	case c.MaxInFlight <= 0:
		return fmt.Errorf("max in flight %d is not positive", c.MaxInFlight)
	case c.ProbeEvery <= 0:
		return fmt.Errorf("probe interval %v is not positive", c.ProbeEvery)
	}
	if c.LastResort != (netip.AddrPort{}) && !usable(c.LastResort) {
		return fmt.Errorf("last resort %v is not an address with a port", c.LastResort)
	}
	return validateEndpoints(c.Endpoints)
}

// validateEndpoints says which endpoint cannot be asked at all.
func validateEndpoints(endpoints []Endpoint) error {
	for _, e := range endpoints {
		if !usable(e.Addr) {
			return fmt.Errorf("endpoint %v is not an address with a port", e)
		}
		if e.Transport > TCP {
			return fmt.Errorf("endpoint %v: unknown transport %d", e.Addr, uint8(e.Transport))
		}
	}
	return nil
}

// usable reports whether a can be connected to. The unspecified address would reach this very host.
func usable(a netip.AddrPort) bool {
	return a.IsValid() && a.Port() != 0 && !a.Addr().IsUnspecified() && !a.Addr().IsMulticast()
}

// Meta says how an answer was had.
type Meta struct {
	Endpoint   Endpoint      // who answered
	RTT        time.Duration // from the question that was answered to its answer, not counting earlier attempts
	LastResort bool          // the last resort answered
	Hedged     bool          // a second endpoint had been asked because the first was slow
}

// EndpointStatus is one line of Status.
type EndpointStatus struct {
	Endpoint   Endpoint
	LastResort bool
	State      State
	Latency    time.Duration // EWMA of answers; 0: none yet
	P95        time.Duration // estimate over the last few hundred answers; 0: too few
	Losses     int           // consecutive
	Asked      uint64
	Answered   uint64
	LastAnswer time.Duration // ago; -1: never
	Marked     bool          // its sockets carry the configured mark
}
