package api

import "time"

// Words for a part's condition. They are what is printed, so that no mark or colour ever stands alone.
const (
	OK   = "ok"   // works as configured
	Warn = "warn" // answers, but less well than configured; Reason says why
	Fail = "fail" // does not work; Reason says why
	Skip = "skip" // not in use, on purpose or because it cannot be here; Reason says why
)

// Phases of an agent's life, in order.
const (
	Starting = "starting" // not yet ready: listening, waiting for the first upstream answer, installing
	Serving  = "serving"  // ready
	Draining = "draining" // told to stop: new questions go to cluster DNS, open ones are answered
)

// Status is the document at /v1/status: what a node's DNS is doing now.
type Status struct {
	SchemaVersion int       `json:"schemaVersion"`
	Version       string    `json:"version"`
	Host          string    `json:"host"`
	Kernel        string    `json:"kernel,omitempty"`
	PID           int       `json:"pid"`
	Started       time.Time `json:"started"`
	UptimeSeconds float64   `json:"uptimeSeconds"`
	Phase         string    `json:"phase"`
	State         string    `json:"state"`            // the worst of all parts below
	Reason        string    `json:"reason,omitempty"` // what is the matter, when State is not ok
	Ready         bool      `json:"ready"`
	Checks        []Check   `json:"checks"` // what readiness consists of, as of this document

	Interception Interception `json:"interception"`
	Listeners    []Listener   `json:"listeners"`
	Queries      Queries      `json:"queries"`
	Cache        Cache        `json:"cache"`
	Upstreams    []Upstream   `json:"upstreams"` // the default one first, then by name
	Zones        []Zone       `json:"zones"`     // as configured, in that order
	Config       ConfigLoad   `json:"config"`
	Process      Process      `json:"process"`
	Conntrack    *Conntrack   `json:"conntrack,omitempty"` // nil where the kernel keeps none or does not say
}

// Check is one condition of readiness.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"` // set when not OK
}

// Interception says whether pods' questions to the virtual address reach this agent, and if not, why.
type Interception struct {
	Mode      string            `json:"mode"`  // auto, on, off: as configured
	State     string            `json:"state"` // ok, warn, fail, skip
	Reason    string            `json:"reason,omitempty"`
	Installed bool              `json:"installed"` // the table is in the kernel
	Owned     bool              `json:"owned"`     // and falls with this process (Linux 5.12)
	VIPs      []VIP             `json:"vips,omitempty"`
	Missing   []string          `json:"missing,omitempty"`   // kernel features that are done without
	Packets   map[string]uint64 `json:"packets,omitempty"`   // counted by the kernel's rules, by what they did
	Lapses    uint64            `json:"lapses"`              // times the heartbeat was lost
	Notes     []string          `json:"notes,omitempty"`     // what an operator should know, in words
	Uplinks   []string          `json:"uplinks,omitempty"`   // interfaces whose packets are never ours
	Endpoints []string          `json:"untracked,omitempty"` // upstream endpoints asked without conntrack
}

// VIP is one virtual address, the address of ours that stands in for it, and whether the kernel sends questions there.
type VIP struct {
	VIP      string `json:"vip"`
	Listener string `json:"listener"`
	UDP      bool   `json:"udp"` // alive: the kernel saw an answer to our own probe within the last heartbeat
	TCP      bool   `json:"tcp"`
}

// Listener is one address with both its sockets.
type Listener struct {
	Addr  string `json:"addr"`
	State string `json:"state"`
	Error string `json:"error,omitempty"`
}

// Queries counts what clients asked since the start, without the agent's own probes and the few names that are answered
// without a look at the cache (localhost and the like).
type Queries struct {
	State     string `json:"state"` // warn while questions went unanswered lately, see Recent
	Reason    string `json:"reason,omitempty"`
	UDP       uint64 `json:"udp"`
	TCP       uint64 `json:"tcp"`
	Stale     uint64 `json:"stale"`     // answered with an expired entry because no endpoint answered in time
	ServFail  uint64 `json:"servfail"`  // told that no answer could be had
	Shed      uint64 `json:"shed"`      // told so because a limit was reached
	Malformed uint64 `json:"malformed"` // dropped or answered FORMERR
	InFlight  int64  `json:"inFlight"`  // clients' questions waiting for an upstream now
	TCPConns  int64  `json:"tcpConnections"`
	Recent    Recent `json:"recent"`
}

// Recent counts what happened in the last minute or since the start, whichever is shorter: what an outage looks like
// now, apart from what happened last week.
type Recent struct {
	Seconds  float64 `json:"seconds"` // how much time is counted; 0: too early to say
	Queries  uint64  `json:"queries"`
	Stale    uint64  `json:"stale"`
	ServFail uint64  `json:"servfail"`
	Shed     uint64  `json:"shed"`
}

// Cache is the answer cache now, and its hits since the start.
type Cache struct {
	Entries   int64   `json:"entries"`
	Bytes     int64   `json:"bytes"`
	Budget    int64   `json:"budget"`
	Hits      uint64  `json:"hits"`
	Misses    uint64  `json:"misses"`
	HitRatio  float64 `json:"hitRatio"` // 0 to 1; 0 before the first question
	Evictions uint64  `json:"evictions"`
}

// Upstream is one group of endpoints that answer the same zones.
type Upstream struct {
	Name       string     `json:"name"`
	State      string     `json:"state"`
	Reason     string     `json:"reason,omitempty"`
	Source     string     `json:"source,omitempty"` // where the endpoints come from: the configuration or a resolv.conf
	LastResort string     `json:"lastResort,omitempty"`
	LastUsed   uint64     `json:"lastResortUsed"` // answers had from the last resort
	Endpoints  []Endpoint `json:"endpoints"`
	Notes      []string   `json:"notes,omitempty"`
}

// Endpoint is one server with its own health and latency.
type Endpoint struct {
	Addr           string  `json:"addr"`
	Transport      string  `json:"transport"`
	State          string  `json:"state"` // ok, warn (losing), fail (held for dead)
	Reason         string  `json:"reason,omitempty"`
	LatencySeconds float64 `json:"latencySeconds"` // moving average; 0 before the first answer
	Asked          uint64  `json:"asked"`
	Answered       uint64  `json:"answered"`
	Unanswered     uint64  `json:"unanswered"` // asked, and not answered or not yet
	Share          float64 `json:"share"`      // of its group's answers, 0 to 1
}

// Zone is a suffix that is answered otherwise than the root.
type Zone struct {
	Name     string `json:"name"`
	Upstream string `json:"upstream,omitempty"`
	Hosts    int    `json:"hosts"`    // static names
	FailOpen bool   `json:"failOpen"` // false: cluster DNS would answer differently while dnslet is away
}

// ConfigLoad is the configuration in force and what became of the last attempt to change it.
type ConfigLoad struct {
	State       string    `json:"state"`          // warn when the last attempt was refused, or a change waits for a restart
	File        string    `json:"file,omitempty"` // empty: none, the built-in defaults
	Loaded      time.Time `json:"loaded"`         // when the configuration in force was taken
	Reloads     uint64    `json:"reloads"`        // accepted since the start
	Failures    uint64    `json:"failures"`       // refused since the start
	OK          bool      `json:"ok"`             // the last attempt was accepted
	Error       string    `json:"error,omitempty"`
	ErrorAt     time.Time `json:"errorAt,omitzero"`
	RestartFor  []string  `json:"restartFor,omitempty"` // fields whose new value waits for a restart
	Warnings    []string  `json:"warnings,omitempty"`
	ResolvConfs []string  `json:"resolvConfs,omitempty"` // files followed for upstream addresses
}

// Process is the agent as the machine sees it.
type Process struct {
	ResidentBytes int64  `json:"residentBytes"`
	HeapBytes     uint64 `json:"heapBytes"`
	LimitBytes    int64  `json:"limitBytes"` // the Go runtime's soft limit; 0: none
	Goroutines    int    `json:"goroutines"`
	MaxProcs      int    `json:"maxProcs"`
	OpenFiles     int    `json:"openFiles"`
	FileLimit     uint64 `json:"fileLimit"`
}

// Conntrack is the node's connection table, which dnslet exists to stay out of.
type Conntrack struct {
	Entries      uint64 `json:"entries"`
	Limit        uint64 `json:"limit"`
	InsertFailed uint64 `json:"insertFailed"`
	Drop         uint64 `json:"drop"`
	EarlyDrop    uint64 `json:"earlyDrop"`
	ClashResolve uint64 `json:"clashResolve"`
}
