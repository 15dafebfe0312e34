package config

import (
	"log/slog"
	"net/netip"
	"time"
)

// The table: every key, where its value is, how it is written, what it means. docs/config.md and the schema are made
// from it. Bounds are in it where they concern one key; what concerns several is in validate.go.
//
// Restart marks what the agent can apply only by starting again: sockets and the rules that name them.

func table() object[Config] {
	return object[Config]{[]field[Config]{
		key("listen", func(c *Config) *[]netip.AddrPort { return &c.Listen },
			list[netip.AddrPort]{of: addrPort(0, true)},
			"Plain addresses to answer on by UDP and TCP, each IP:PORT, beside those that interception needs. "+
				"Port 0 takes any free port. Where interception has virtual IPs the default is none.").needsRestart(),
		key("upstreams", func(c *Config) *map[string]Upstream { return &c.Upstreams },
			dict[Upstream]{of: upstreamTable(), elem: defaultUpstream, pattern: groupText},
			"Groups of resolvers to ask, by name. The group `default` answers every name that no zone claims; "+
				"if it is not given it is the nameservers of /etc/resolv.conf."),
		key("cache", func(c *Config) *Cache { return &c.Cache }, cacheTable(),
			"What is kept, and for how long."),
		// After cache: a zone inherits its caps.
		key("zones", func(c *Config) *[]Zone { return &c.Zones },
			list[Zone]{of: zoneTable(), elem: defaultZone, id: func(z *Zone) string { return z.Name }},
			"Parts of the name space with their own upstream, caps or hosts. The longest zone that holds a name counts."),
		key("intercept", func(c *Config) *Intercept { return &c.Intercept }, interceptTable(),
			"How queries to the cluster DNS virtual IPs reach dnslet."),
		key("limits", func(c *Config) *Limits { return &c.Limits }, limitsTable(),
			"What clients can make dnslet hold. Beyond, questions are refused with SERVFAIL and connections are closed."),
		key("admin", func(c *Config) *Admin { return &c.Admin },
			adminTable(),
			"The HTTP endpoint."),
		key("log", func(c *Config) *Log { return &c.Log },
			logTable(),
			"What goes to stderr."),
	}}
}

func upstreamTable() object[Upstream] {
	return object[Upstream]{[]field[Upstream]{
		key("endpoints", func(u *Upstream) *[]netip.AddrPort { return &u.Endpoints },
			list[netip.AddrPort]{of: addrPort(DNSPort, false)},
			"Resolvers to ask directly, each IP or IP:PORT (port 53 if not given). "+
				"For cluster DNS: the addresses of its pods, not the virtual IP."),
		key("transport", func(u *Upstream) *Transport { return &u.Transport }, word(UDP, TCP),
			"Protocol a question starts with. A truncated UDP answer is asked for again by TCP."),
		key("resolvConf", func(u *Upstream) *string { return &u.ResolvConf }, absolutePath().orNone(),
			"A resolv.conf whose nameservers are the endpoints, read again when it changes. Instead of `endpoints`."),
		key("lastResort", func(u *Upstream) *netip.AddrPort { return &u.LastResort }, addrPort(DNSPort, false).orNone(),
			"Asked when every endpoint fails: the cluster DNS virtual IP, which then goes through kube-proxy. "+
				"In the group `default` it is the first of `intercept.vips` if it is not given."),
	}}
}

func zoneTable() object[Zone] {
	return object[Zone]{[]field[Zone]{
		key("zone", func(z *Zone) *string { return &z.Name }, domain(),
			"The zone: this name and all below it. `.` is everything.").mustBeGiven(),
		key("upstream", func(z *Zone) *string { return &z.Upstream }, groupName(),
			"The group that is asked."),
		key("minTTL", func(z *Zone) *time.Duration { return &z.MinTTL }, ttl(time.Hour),
			"Answers are kept at least this long.").inheritsFrom("cache.minTTL"),
		key("maxTTL", func(z *Zone) *time.Duration { return &z.MaxTTL }, duration(time.Second, week, time.Second),
			"Answers are kept no longer than this.").inheritsFrom("cache.maxTTL"),
		key("maxNegativeTTL", func(z *Zone) *time.Duration { return &z.MaxNegativeTTL }, ttl(3*time.Hour),
			"The same for NXDOMAIN and for names without the type asked for. 0s: not at all.").inheritsFrom("cache.maxNegativeTTL"),
		key("hosts", func(z *Zone) *[]Host { return &z.Hosts },
			list[Host]{of: hostTable(), elem: func(*Config) Host { return defaultHost() }, id: func(h *Host) string { return h.Name }},
			"Names answered from here; all others of the zone go to the upstream."),
	}}
}

func hostTable() object[Host] {
	return object[Host]{[]field[Host]{
		key("name", func(h *Host) *string { return &h.Name }, domain(),
			"The whole name, within the zone.").mustBeGiven(),
		key("addresses", func(h *Host) *[]netip.Addr { return &h.Addresses }, list[netip.Addr]{of: address()},
			"IPv4 and IPv6 addresses.").mustBeGiven(),
		key("ttl", func(h *Host) *time.Duration { return &h.TTL }, ttl(week),
			"TTL of the answers."),
	}}
}

func cacheTable() object[Cache] {
	return object[Cache]{[]field[Cache]{
		key("size", func(c *Cache) *int64 { return &c.Size }, size(minCache, 64<<30),
			"Ceiling of the memory for answers, keys and the table together.").needsRestart(),
		key("minTTL", func(c *Cache) *time.Duration { return &c.MinTTL }, ttl(time.Hour),
			"Answers are kept at least this long, whatever their TTL.").needsRestart(),
		key("maxTTL", func(c *Cache) *time.Duration { return &c.MaxTTL }, duration(time.Second, week, time.Second),
			"Answers are kept no longer than this.").needsRestart(),
		// RFC 2308 section 5: one to three hours have been found to work well; not above a day.
		key("maxNegativeTTL", func(c *Cache) *time.Duration { return &c.MaxNegativeTTL }, ttl(3*time.Hour),
			"The same for NXDOMAIN and for names without the type asked for. 0s: not at all. "+
				"It is how long a new Service can stay unseen by who asked too early.").needsRestart(),
		// RFC 9520 section 3.2: MUST cache for at least 1 s, MUST NOT for more than 5 min.
		key("failureTTL", func(c *Cache) *time.Duration { return &c.FailureTTL }, duration(time.Second, 5*time.Minute, time.Millisecond),
			"How long a failure of the upstream is remembered (RFC 9520).").needsRestart(),
		// RFC 8767 section 5 suggests one to three days at most.
		key("staleFor", func(c *Cache) *time.Duration { return &c.StaleFor }, duration(0, 72*time.Hour, time.Millisecond),
			"How long past its TTL an answer may stand in while no upstream answers (RFC 8767). 0s: never.").needsRestart(),
		key("prefetch", func(c *Cache) *bool { return &c.Prefetch }, boolean(),
			"Ask again for what is in demand shortly before it expires.").needsRestart(),
	}}
}

func interceptTable() object[Intercept] {
	return object[Intercept]{[]field[Intercept]{
		key("mode", func(i *Intercept) *Mode { return &i.Mode }, word(ModeAuto, ModeOn, ModeOff),
			"`auto`: where there are virtual IPs and the machine allows it, else serve without. `on`: or do not start. `off`: never.").needsRestart(),
		key("vips", func(i *Intercept) *[]netip.Addr { return &i.VIPs }, list[netip.Addr]{of: address()},
			"Virtual IPs of cluster DNS, as pods have them in resolv.conf. Queries to their port 53 are taken over.").needsRestart(),
		key("addresses4", func(i *Intercept) *netip.Prefix { return &i.Addresses4 }, prefix(false),
			"Block of IPv4 addresses of dnslet's own, used on this node only. Nothing else may use it.").needsRestart(),
		key("addresses6", func(i *Intercept) *netip.Prefix { return &i.Addresses6 }, prefix(false),
			"The same for IPv6.").needsRestart(),
		key("marks", func(i *Intercept) *Marks { return &i.Marks },
			marksTable(),
			"Socket marks (SO_MARK) that tell dnslet's sockets apart. Change them where another program uses the same.").needsRestart(),
		key("uplinks", func(i *Intercept) *[]string { return &i.Uplinks }, list[string]{of: interfaceName()},
			"Interfaces whose packets are never taken over. None given: those of the default routes.").needsRestart(),
		key("scope", func(i *Intercept) *[]netip.Prefix { return &i.Scope }, list[netip.Prefix]{of: prefix(true)},
			"Sources that are served, each an address or a block. None given: all."),
		key("bypass", func(i *Intercept) *[]netip.Prefix { return &i.Bypass }, list[netip.Prefix]{of: prefix(true)},
			"Sources that are not served and go on to kube-proxy, each an address or a block."),
		key("rate", func(i *Intercept) *uint32 { return &i.Rate }, integer[uint32](1, 10_000_000, "%d"),
			"Packets per second taken over from one source. The excess goes to kube-proxy.").needsRestart(),
		// Probes go every 100 ms: less than three of them would make one lost probe an outage.
		key("heartbeat", func(i *Intercept) *time.Duration { return &i.Heartbeat }, duration(300*time.Millisecond, 5*time.Second, time.Millisecond),
			"How long the kernel goes on taking packets over without seeing dnslet answer its own probe.").needsRestart(),
	}}
}

func marksTable() object[Marks] {
	return object[Marks]{[]field[Marks]{
		key("listener", func(m *Marks) *uint32 { return &m.Listener }, mark(), "Of the sockets that answer."),
		key("upstream", func(m *Marks) *uint32 { return &m.Upstream }, mark(), "Of the sockets that ask endpoints."),
		key("lastResort", func(m *Marks) *uint32 { return &m.LastResort }, mark(), "Of the sockets that ask the last resort."),
	}}
}

func limitsTable() object[Limits] {
	return object[Limits]{[]field[Limits]{
		key("inFlight", func(l *Limits) *int { return &l.InFlight }, integer[int](1, 1_000_000, "%d"),
			"Questions that wait for an upstream, in all."),
		key("perSource", func(l *Limits) *int { return &l.PerSource }, integer[int](1, 1_000_000, "%d"),
			"The same, of one client address."),
		key("tcpConnections", func(l *Limits) *int { return &l.TCPConnections }, integer[int](1, 1_000_000, "%d"),
			"TCP connections of clients, in all."),
		key("tcpPerSource", func(l *Limits) *int { return &l.TCPPerSource }, integer[int](1, 1_000_000, "%d"),
			"The same, of one client address."),
		// The kernel forgets an idle intercepted connection after 2 min; ours must end well before.
		key("tcpIdle", func(l *Limits) *time.Duration { return &l.TCPIdle }, duration(time.Second, 90*time.Second, time.Millisecond),
			"How long a TCP connection may say nothing."),
	}}
}

func adminTable() object[Admin] {
	return object[Admin]{[]field[Admin]{
		key("listen", func(a *Admin) *netip.AddrPort { return &a.Listen }, addrPort(0, true),
			"Address of the HTTP endpoint with /livez, /readyz, /metrics, /v1 and /debug/pprof. "+
				"It has no authentication: keep it on loopback, or on an address that only monitoring reaches.").needsRestart(),
	}}
}

func logTable() object[Log] {
	return object[Log]{[]field[Log]{
		key("level", func(l *Log) *slog.Level { return &l.Level }, logLevel(),
			"Least severe level that is written."),
		key("format", func(l *Log) *LogFormat { return &l.Format }, word(LogText, LogJSON),
			"How a line is written.").needsRestart(),
	}}
}

const (
	week     = 7 * 24 * time.Hour
	minCache = 1 << 20
)

func ttl(hi time.Duration) scalar[time.Duration] { return duration(0, hi, time.Second) }
func mark() scalar[uint32]                       { return integer[uint32](1, 1<<32-1, "%#x") }
