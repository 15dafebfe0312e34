// Package config is dnslet's one configuration file: its types, its defaults, a strict parser, the checks made before
// anything is applied, and the watcher that hands a changed file to the agent.
//
// One table (table.go) says how each key is written. Parsing, printing, comparing and the JSON Schema are all driven by
// it, so they cannot disagree. A Config is a value: every field holds what is in force, zero never means "unset", and
// nothing in it is changed after Parse returned it; a reload makes a new one.
//
// The package does not read resolv.conf (package node does), resolves no names, opens no sockets and does not apply
// anything: the agent does.
package config

import (
	"log/slog"
	"net/netip"
	"time"
)

// DefaultUpstream names the upstream group that answers every name no zone claims. It always exists.
const DefaultUpstream = "default"

// DNSPort is what an upstream address without a port means.
const DNSPort = 53

// Config is a whole configuration, as Parse and Default return it.
type Config struct {
	// Listen are plain addresses to answer on, beside those that interception needs. Port 0 takes a free port.
	// Not given: 127.0.0.1:5300, or none where interception has virtual IPs to answer for.
	Listen []netip.AddrPort
	// Upstreams are groups of resolvers to ask, by name. DefaultUpstream is always there.
	Upstreams map[string]Upstream
	// Zones send names to a group, longest match first, in the order of the file.
	Zones     []Zone
	Cache     Cache
	Intercept Intercept
	Limits    Limits
	Admin     Admin
	Log       Log
}

// Upstream is a group of resolvers that are interchangeable. It has Endpoints or a ResolvConf, not both.
type Upstream struct {
	// Endpoints are asked directly, each with its own health and latency. The port is always set.
	Endpoints []netip.AddrPort
	// Transport is the protocol a question starts with.
	Transport Transport
	// ResolvConf is the absolute path of a resolv.conf whose nameservers are the endpoints, read again when it
	// changes. Empty: none.
	ResolvConf string
	// LastResort is asked when every endpoint fails: the virtual IP, through kube-proxy. Not IsValid: none. Not given
	// in the default group: the first virtual IP, where there is interception.
	LastResort netip.AddrPort
}

// Transport is a way to ask an upstream.
type Transport string

// The transports. A truncated UDP answer is asked for again by TCP.
const (
	UDP Transport = "udp"
	TCP Transport = "tcp"
)

// Zone is a part of the name space with its own upstream, caps and hosts. Caps are in force as they stand here: those
// not given were copied from Cache.
type Zone struct {
	Name           string // absolute, folded to lower case, with the trailing dot: "corp.example."; the root is "."
	Upstream       string // name of a group
	MinTTL         time.Duration
	MaxTTL         time.Duration
	MaxNegativeTTL time.Duration
	Hosts          []Host
}

// Host is a name that is answered from the configuration.
type Host struct {
	Name      string // absolute, folded, with the trailing dot, within its zone
	Addresses []netip.Addr
	TTL       time.Duration // whole seconds
}

// Cache bounds what is kept. TTLs are whole seconds.
type Cache struct {
	Size           int64 // bytes, for everything: answers, keys and the table
	MinTTL         time.Duration
	MaxTTL         time.Duration
	MaxNegativeTTL time.Duration // for NXDOMAIN and NODATA
	FailureTTL     time.Duration // RFC 9520
	StaleFor       time.Duration // how long past its TTL an answer may stand in for a dead upstream (RFC 8767); 0: never
	Prefetch       bool          // renew hot answers shortly before they expire
}

// Mode says whether pod queries are taken over from kube-proxy.
type Mode string

// The modes of interception.
const (
	ModeAuto Mode = "auto" // where there are virtual IPs and the machine allows it; otherwise serve without it
	ModeOn   Mode = "on"   // or refuse to start
	ModeOff  Mode = "off"
)

// Intercept is how queries to the cluster DNS virtual IPs reach dnslet.
type Intercept struct {
	Mode       Mode
	VIPs       []netip.Addr
	Addresses4 netip.Prefix // block of addresses of our own: listeners and probers
	Addresses6 netip.Prefix
	Marks      Marks
	Uplinks    []string       // interfaces whose packets are never ours; empty: those of the default routes
	Scope      []netip.Prefix // sources that are served; empty: all
	Bypass     []netip.Prefix // sources that are not
	Rate       uint32         // packets per second and source; the excess goes to kube-proxy
	Heartbeat  time.Duration  // how long the kernel goes on without hearing an answer of ours
}

// Enabled reports whether interception is wanted and has something to intercept.
func (i Intercept) Enabled() bool { return i.Mode != ModeOff && len(i.VIPs) > 0 }

// Marks are the SO_MARKs that tell our sockets apart.
type Marks struct {
	Listener   uint32
	Upstream   uint32
	LastResort uint32
}

// Limits bound what clients can make dnslet hold.
type Limits struct {
	InFlight       int // questions waiting for an upstream, in all
	PerSource      int // the same, of one client address
	TCPConnections int
	TCPPerSource   int
	TCPIdle        time.Duration
}

// Admin is the agent's HTTP endpoint.
type Admin struct {
	Listen netip.AddrPort
}

// Log is what goes to stderr.
type Log struct {
	Level  slog.Level
	Format LogFormat
}

// LogFormat is how a log line is written.
type LogFormat string

// The log formats.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// Default returns the configuration of an empty file: serve 127.0.0.1:5300 from /etc/resolv.conf, intercept nothing
// (there is no virtual IP). Every default is here and nowhere else; each call returns a fresh value.
func Default() Config {
	return Config{
		Listen:    []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:5300")},
		Upstreams: map[string]Upstream{DefaultUpstream: {Transport: UDP, ResolvConf: "/etc/resolv.conf"}},
		Cache: Cache{
			Size:   32 << 20,
			MinTTL: 0,
			MaxTTL: time.Hour,
			// What node-local-dns grants denials in the cluster zone: a new Service is seen after 5 s at most.
			MaxNegativeTTL: 5 * time.Second,
			// RFC 9520 section 3.2: at least 1 s, at most 5 min.
			FailureTTL: time.Second,
			// Long enough for an outage that wakes somebody up; RFC 8767 section 5 would allow days.
			StaleFor: time.Hour,
			Prefetch: true,
		},
		Intercept: Intercept{
			Mode:       ModeAuto,
			Addresses4: netip.MustParsePrefix("169.254.53.48/28"),
			Addresses6: netip.MustParsePrefix("fd64:6e73:6c65:74::30/124"),
			Marks:      Marks{Listener: 0x53, Upstream: 0x54, LastResort: 0x55},
			Rate:       20000,
			Heartbeat:  500 * time.Millisecond,
		},
		Limits: Limits{
			InFlight:       4096,
			PerSource:      512,
			TCPConnections: 1024,
			TCPPerSource:   128,
			TCPIdle:        30 * time.Second,
		},
		Admin: Admin{Listen: netip.MustParseAddrPort("127.0.0.1:9553")},
		Log:   Log{Level: slog.LevelInfo, Format: LogText},
	}
}

// derive fills in the two defaults that depend on what was given: with virtual IPs to answer for, no plain address is
// needed, and what pods would ask without dnslet, kube-proxy's way to cluster DNS, is the last resort.
func (c *Config) derive(given func(path string) bool) {
	if !c.Intercept.Enabled() {
		return
	}
	if !given("listen") {
		c.Listen = nil
	}
	if u := c.Upstreams[DefaultUpstream]; !given("upstreams." + DefaultUpstream + ".lastResort") {
		u.LastResort = netip.AddrPortFrom(c.Intercept.VIPs[0], DNSPort)
		c.Upstreams[DefaultUpstream] = u
	}
}

// defaultUpstream, defaultZone and defaultHost are what the keys not given of an element mean.
func defaultUpstream() Upstream { return Upstream{Transport: UDP} }

func defaultZone(c *Config) Zone {
	return Zone{
		Upstream:       DefaultUpstream,
		MinTTL:         c.Cache.MinTTL,
		MaxTTL:         c.Cache.MaxTTL,
		MaxNegativeTTL: c.Cache.MaxNegativeTTL,
	}
}

func defaultHost() Host { return Host{TTL: 30 * time.Second} }
