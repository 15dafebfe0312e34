package admin

import (
	"runtime"
	"slices"
	"time"

	"github.com/dnslet/dnslet/api"
	"github.com/dnslet/dnslet/cache"
	"github.com/dnslet/dnslet/intercept"
	"github.com/dnslet/dnslet/resolver"
	"github.com/dnslet/dnslet/upstream"
	"github.com/dnslet/dnslet/wire"
)

// Snapshot is what one scrape of /metrics is made from: the counters of every part at about the same moment.
type Snapshot struct {
	Version   string
	Ready     bool
	Resolver  resolver.Stats
	Cache     cache.Stats
	Upstreams []Upstream
	Intercept *intercept.Status // nil: interception is not in use
	Conntrack *api.Conntrack    // nil: the kernel has none or does not say
	Config    Reloads
}

// Upstream is one upstream group in a Snapshot.
type Upstream struct {
	Name      string
	Healthy   bool
	Stats     upstream.Snapshot
	Endpoints []upstream.EndpointStatus
}

// Reloads is what became of the attempts to change the configuration.
type Reloads struct {
	OK                bool      // the last attempt was accepted
	Loaded            time.Time // when the configuration in force was taken
	Accepted, Refused uint64
	RestartNeeded     int // fields whose new value waits for a restart
}

// Every name that dnslet exports stands in this file, beside the runtime's own (go_*, process_*). Units are base units.
// Labels have few values by construction: never a name that was asked for, never a client.

// metrics is every family but the histogram, part by part.
func metrics() []metric {
	return slices.Concat(agentMetrics(), queryMetrics(), socketMetrics(), cacheMetrics(), upstreamMetrics(), interceptMetrics(), conntrackMetrics())
}

func agentMetrics() []metric {
	return []metric{
		{"dnslet_build_info", "Always 1; the labels say which program this is.", gauge, []string{"version", "goversion"},
			func(s *Snapshot, put put) { put(1, s.Version, runtime.Version()) }},
		{"dnslet_ready", "Whether the agent is ready: 1 or 0.", gauge, nil,
			func(s *Snapshot, put put) { put(bit(s.Ready)) }},
		{"dnslet_config_last_reload_successful", "Whether the last attempt to load the configuration was accepted: 1 or 0.", gauge, nil,
			func(s *Snapshot, put put) { put(bit(s.Config.OK)) }},
		{"dnslet_config_loaded_timestamp_seconds", "When the configuration in force was loaded, since the epoch.", gauge, nil,
			func(s *Snapshot, put put) { put(float64(s.Config.Loaded.UnixMilli()) / 1000) }},
		{"dnslet_config_reloads_total", "Attempts to change the configuration, by what became of them.", counter, []string{"result"},
			func(s *Snapshot, put put) {
				put(float64(s.Config.Accepted), "accepted")
				put(float64(s.Config.Refused), "refused")
			}},
		{"dnslet_config_restart_needed_fields", "Fields of the configuration whose new value waits for a restart.", gauge, nil,
			func(s *Snapshot, put put) { put(float64(s.Config.RestartNeeded)) }},
	}
}

func queryMetrics() []metric {
	return []metric{
		{"dnslet_dns_queries_total", "Questions received, by how they came; internal ones are the agent's own.", counter, []string{"proto"},
			func(s *Snapshot, put put) {
				for t, n := range s.Resolver.Queries {
					put(float64(n), resolver.Transport(t).String())
				}
			}},
		{"dnslet_dns_results_total", "What became of questions. Every question has exactly one result.", counter, []string{"proto", "result"},
			func(s *Snapshot, put put) {
				for t := range s.Resolver.Outcomes {
					for o, n := range s.Resolver.Outcomes[t] {
						put(float64(n), resolver.Transport(t).String(), resolver.Outcome(o).String())
					}
				}
			}},
		{"dnslet_dns_responses_total", "Replies, by response code.", counter, []string{"rcode"},
			func(s *Snapshot, put put) {
				for i, n := range s.Resolver.RCodes {
					if i == len(s.Resolver.RCodes)-1 {
						put(float64(n), "other")
					} else if n > 0 || i <= int(wire.RCodeRefused) { // the common ones always, so that a rate has a beginning
						put(float64(n), wire.RCode(i).String())
					}
				}
			}},
		{"dnslet_dns_answers_total", "Replies from the cache or an upstream, by kind of answer.", counter, []string{"kind"},
			func(s *Snapshot, put put) {
				putNamed(s.Resolver.Kinds[:], func(i int) string { return wire.Kind(i).String() }, put)
			}},
		{"dnslet_dns_requests_refused_total", "Requests that were not taken, by reason.", counter, []string{"verdict"},
			func(s *Snapshot, put put) {
				putNamed(s.Resolver.Verdicts[:], func(i int) string { return wire.Verdict(i).String() }, put)
			}},
		{"dnslet_dns_waiting_queries", "Questions that wait for an upstream now.", gauge, nil,
			func(s *Snapshot, put put) { put(float64(s.Resolver.Waiting)) }},
		{"dnslet_dns_waiting_queries_peak", "The most questions that ever waited at once.", gauge, nil,
			func(s *Snapshot, put put) { put(float64(s.Resolver.PeakWaiting)) }},
		{"dnslet_dns_flights", "Upstream questions under way now, each for one or more clients.", gauge, nil,
			func(s *Snapshot, put put) { put(float64(s.Resolver.Flights)) }},
		events("dnslet_dns_shed_total", "Questions answered SERVFAIL because a limit was reached, by limit.", "reason",
			map[resolver.Event]string{resolver.ShedFull: "full", resolver.ShedShare: "share"}),
		event("dnslet_dns_flights_total", "Upstream questions begun.", resolver.FlightStarted),
		event("dnslet_dns_flights_joined_total", "Questions that found theirs already asked and waited for the same answer.", resolver.FlightJoined),
		event("dnslet_dns_prefetches_total", "Upstream questions begun before anybody had to wait for them.", resolver.Prefetched),
		event("dnslet_dns_upstream_garbage_total", "Upstream answers that could not be parsed.", resolver.UpstreamGarbage),
	}
}

// missDuration is the one histogram.
const (
	missDuration     = "dnslet_dns_miss_duration_seconds"
	missDurationHelp = "Time from question to reply of what was not answered from a fresh cache entry."
)

func socketMetrics() []metric {
	return []metric{
		{"dnslet_dns_batches_total", "System calls that received datagrams: queries by UDP over this is the batch size.", counter, nil,
			func(s *Snapshot, put put) { put(float64(s.Resolver.Batches)) }},
		events("dnslet_dns_send_errors_total", "Replies that could not be sent, by reason.", "reason", map[resolver.Event]string{
			resolver.SendRefused: "refused", resolver.SendNoBuffer: "no_buffer", resolver.SendFailed: "failed"}),
		events("dnslet_dns_receive_errors_total", "Datagrams that were not answered, by reason.", "reason", map[resolver.Event]string{
			resolver.RecvFailed: "failed", resolver.RecvTruncated: "truncated", resolver.QueueExpired: "expired"}),
		{"dnslet_tcp_connections", "TCP connections open now.", gauge, nil,
			func(s *Snapshot, put put) { put(float64(s.Resolver.Conns)) }},
		{"dnslet_tcp_connections_peak", "The most TCP connections ever open at once.", gauge, nil,
			func(s *Snapshot, put put) { put(float64(s.Resolver.PeakConns)) }},
		event("dnslet_tcp_connections_accepted_total", "TCP connections accepted.", resolver.ConnAccepted),
		events("dnslet_tcp_connections_refused_total", "TCP connections closed at once because a limit was reached, by limit.", "reason",
			map[resolver.Event]string{resolver.ConnRefusedFull: "full", resolver.ConnRefusedShare: "share"}),
		events("dnslet_tcp_connections_ended_total", "TCP connections ended, by reason.", "reason",
			map[resolver.Event]string{resolver.ConnClosed: "client", resolver.ConnIdle: "idle", resolver.ConnSlow: "slow", resolver.ConnLied: "bad_length",
				resolver.ConnStuck: "not_read", resolver.ConnBroken: "broken"}),
		event("dnslet_tcp_accept_errors_total", "Failed attempts to accept a connection, such as for want of descriptors.", resolver.AcceptFailed),
	}
}

func cacheMetrics() []metric {
	return []metric{
		{"dnslet_cache_entries", "Answers in the cache, by kind; expired ones included.", gauge, []string{"kind"},
			func(s *Snapshot, put put) {
				put(float64(s.Cache.Positive), wire.Positive.String())
				put(float64(s.Cache.NXDomain), wire.NXDomain.String())
				put(float64(s.Cache.NoData), wire.NoData.String())
				put(float64(s.Cache.Failed), wire.Failure.String())
			}},
		{"dnslet_cache_bytes", "Memory of the cache: entries, keys and table.", gauge, nil,
			func(s *Snapshot, put put) { put(float64(s.Cache.Bytes)) }},
		{"dnslet_cache_table_bytes", "Of that, the table.", gauge, nil,
			func(s *Snapshot, put put) { put(float64(s.Cache.TableBytes)) }},
		{"dnslet_cache_limit_bytes", "The budget that the cache does not exceed.", gauge, nil,
			func(s *Snapshot, put put) { put(float64(s.Cache.Limit)) }},
		{"dnslet_cache_stores_total", "Answers stored.", counter, nil,
			func(s *Snapshot, put put) { put(float64(s.Cache.Puts)) }},
		{"dnslet_cache_removals_total", "Answers removed, by reason.", counter, []string{"reason"},
			func(s *Snapshot, put put) {
				put(float64(s.Cache.Replaced), "replaced")
				put(float64(s.Cache.Evicted), "evicted")
				put(float64(s.Cache.Expired), "expired")
				put(float64(s.Cache.Flushed), "flushed")
			}},
		{"dnslet_cache_failures_held_back_total", "Failures that did not take the place of an answer that is still usable.", counter, nil,
			func(s *Snapshot, put put) { put(float64(s.Cache.HeldBack)) }},
		{"dnslet_cache_too_large_total", "Answers too large for the budget, not stored.", counter, nil,
			func(s *Snapshot, put put) { put(float64(s.Cache.TooLarge)) }},
	}
}

func upstreamMetrics() []metric {
	return []metric{
		{"dnslet_upstream_healthy", "Whether some endpoint is not held for dead: 1 or 0.", gauge, []string{"upstream"},
			func(s *Snapshot, put put) {
				for _, u := range s.Upstreams {
					put(bit(u.Healthy), u.Name)
				}
			}},
		ofUpstream("dnslet_upstream_questions_total", "Questions to be answered by the upstream.", func(n *upstream.Snapshot) uint64 { return n.Exchanges }),
		ofUpstream("dnslet_upstream_questions_failed_total", "Of them, those that ended without an answer.", func(n *upstream.Snapshot) uint64 { return n.Failures }),
		ofUpstream("dnslet_upstream_attempts_total", "Questions sent to an endpoint or the last resort, of every kind.", func(n *upstream.Snapshot) uint64 { return n.Asked }),
		ofUpstreamBy("dnslet_upstream_extra_attempts_total", "Attempts that were not a question's first, by why they were made.", "reason",
			func(n *upstream.Snapshot, put func(string, uint64)) {
				put("hedge", n.Hedges)
				put("sample", n.Samples)
				put("retry", n.Retries)
				put("probe", n.Probes)
				put("last_resort", n.LastResort)
			}),
		ofUpstream("dnslet_upstream_hedge_wins_total", "Hedges that answered before the endpoint asked first.", func(n *upstream.Snapshot) uint64 { return n.HedgeWins }),
		ofUpstream("dnslet_upstream_attempts_replaced_total", "Attempts left because their endpoint was removed.", func(n *upstream.Snapshot) uint64 { return n.Replaced }),
		ofUpstream("dnslet_upstream_attempts_lost_total", "Attempts that got overdue.", func(n *upstream.Snapshot) uint64 { return n.Lost }),
		ofUpstream("dnslet_upstream_answers_late_total", "Answers that came after their question had ended.", func(n *upstream.Snapshot) uint64 { return n.Late }),
		ofUpstream("dnslet_upstream_ejections_total", "Times an endpoint was held for dead.", func(n *upstream.Snapshot) uint64 { return n.Ejections }),
		ofUpstream("dnslet_upstream_recoveries_total", "Times an endpoint came back.", func(n *upstream.Snapshot) uint64 { return n.Recoveries }),
		ofUpstreamBy("dnslet_upstream_answers_bad_total", "Answers that were of no use, by reason.", "reason",
			func(n *upstream.Snapshot, put func(string, uint64)) {
				put("mismatched", n.Mismatched)
				put("malformed", n.Malformed)
				put("error_code", n.Useless)
			}),
		ofUpstream("dnslet_upstream_answers_truncated_total", "UDP answers that were asked for again by TCP.", func(n *upstream.Snapshot) uint64 { return n.Truncated }),
		ofUpstream("dnslet_upstream_tcp_dials_total", "TCP connections opened.", func(n *upstream.Snapshot) uint64 { return n.TCPDials }),
		ofUpstream("dnslet_upstream_tcp_stale_total", "Questions asked again because a kept connection had been closed.", func(n *upstream.Snapshot) uint64 { return n.TCPStale }),
		ofUpstreamBy("dnslet_upstream_errors_total", "Attempts that failed in this host's kernel, by reason.", "reason",
			func(n *upstream.Snapshot, put func(string, uint64)) {
				put("refused", n.ConnRefused)
				put("unreachable", n.Unreachable)
				put("not_permitted", n.NotPermitted)
				put("no_descriptors", n.NoDescriptors)
				put("no_resources", n.NoResources)
				put("overloaded", n.Overloaded)
				put("other", n.OtherErrors)
			}),
		ofUpstream("dnslet_upstream_unmarked_sockets_total", "Sockets that could not be marked: their packets are tracked.", func(n *upstream.Snapshot) uint64 { return n.MarkRefused }),
		ofUpstream("dnslet_upstream_panics_total", "Answers that broke the parser and were thrown away: a fault of dnslet's.", func(n *upstream.Snapshot) uint64 { return n.Panics }),
		ofUpstreamNow("dnslet_upstream_sockets", "UDP sockets open now.", func(n *upstream.Snapshot) int { return n.Sockets }),
		ofUpstreamNow("dnslet_upstream_sockets_lingering", "Of them, those that only wait for a late answer.", func(n *upstream.Snapshot) int { return n.Lingering }),
		ofUpstreamNow("dnslet_upstream_tcp_connections", "TCP connections open now.", func(n *upstream.Snapshot) int { return n.TCPConns }),
		ofEndpoint("dnslet_upstream_endpoint_state", "0: in service, 1: suspected, 2: held for dead.", gauge,
			func(e *upstream.EndpointStatus) float64 { return float64(e.State) }),
		ofEndpoint("dnslet_upstream_endpoint_latency_seconds", "Moving average of the time to an answer; 0: none yet.", gauge,
			func(e *upstream.EndpointStatus) float64 { return e.Latency.Seconds() }),
		ofEndpoint("dnslet_upstream_endpoint_latency_p95_seconds", "95th percentile of the last answers, estimated; 0: too few.", gauge,
			func(e *upstream.EndpointStatus) float64 { return e.P95.Seconds() }),
		ofEndpoint("dnslet_upstream_endpoint_consecutive_losses", "Losses since the last answer.", gauge,
			func(e *upstream.EndpointStatus) float64 { return float64(e.Losses) }),
		ofEndpoint("dnslet_upstream_endpoint_attempts_total", "Questions and probes sent.", counter,
			func(e *upstream.EndpointStatus) float64 { return float64(e.Asked) }),
		ofEndpoint("dnslet_upstream_endpoint_answers_total", "Answers received.", counter,
			func(e *upstream.EndpointStatus) float64 { return float64(e.Answered) }),
		ofEndpoint("dnslet_upstream_endpoint_last_answer_age_seconds", "Time since the last answer; -1: never.", gauge,
			func(e *upstream.EndpointStatus) float64 {
				if e.LastAnswer < 0 {
					return -1
				}
				return e.LastAnswer.Seconds()
			}),
		ofEndpoint("dnslet_upstream_endpoint_marked", "Whether its sockets carry the configured mark: 1 or 0.", gauge,
			func(e *upstream.EndpointStatus) float64 { return bit(e.Marked) }),
	}
}

func interceptMetrics() []metric {
	return []metric{
		ofIntercept("dnslet_intercept_installed", "Whether the tables are in the kernel: 1 or 0.", gauge,
			func(i *intercept.Status) float64 { return bit(i.Installed) }),
		ofIntercept("dnslet_intercept_owned", "Whether the kernel removes the tables when the agent ends: 1 or 0.", gauge,
			func(i *intercept.Status) float64 { return bit(i.Owned) }),
		ofIntercept("dnslet_intercept_withdrawn", "Whether the agent has withdrawn to stop: 1 or 0.", gauge,
			func(i *intercept.Status) float64 { return bit(i.Withdrawn) }),
		ofIntercept("dnslet_intercept_lapses_total", "Times a listener stopped answering the prober.", counter,
			func(i *intercept.Status) float64 { return float64(i.Lapses) }),
		ofIntercept("dnslet_intercept_routes_restored_total", "Times our route was gone and was put back.", counter,
			func(i *intercept.Status) float64 { return float64(i.RouteRestored) }),
		ofIntercept("dnslet_intercept_tables_restored_total", "Times tables of ours had been flushed by somebody and were put back.", counter,
			func(i *intercept.Status) float64 { return float64(i.TableRestored) }),
		ofIntercept("dnslet_intercept_missing_features", "Kernel features done without; status names them.", gauge,
			func(i *intercept.Status) float64 { return float64(len(i.Missing)) }),
		ofIntercept("dnslet_intercept_uplinks", "Interfaces whose packets are never ours.", gauge,
			func(i *intercept.Status) float64 { return float64(len(i.Uplinks)) }),
		ofIntercept("dnslet_intercept_degraded", "Whether something is not intercepted that should be; status says why: 1 or 0.", gauge,
			func(i *intercept.Status) float64 { return bit(i.Reason != "") }),
		{"dnslet_intercept_alive", "Whether the kernel gives new questions to the agent now: 1 or 0.", gauge, []string{"vip", "proto"},
			func(s *Snapshot, put put) {
				if s.Intercept != nil {
					for _, a := range s.Intercept.Alive {
						put(bit(a.Alive), a.VIP.String(), a.Transport.String())
					}
				}
			}},
		ofIntercept("dnslet_intercept_packets_matched_total", "Packets to a virtual IP's port 53 that were looked at.", counter,
			func(i *intercept.Status) float64 { return float64(i.Counters.Matched) }),
		{"dnslet_intercept_packets_total", "Packets by where they were sent, and why.", counter, []string{"to", "reason"},
			func(s *Snapshot, put put) {
				if s.Intercept == nil {
					return
				}
				c := &s.Intercept.Counters
				put(float64(c.Served), "agent", "question")
				put(float64(c.Stream), "agent", "stream")
				put(float64(c.Probes), "prober", "answer")
				put(float64(c.Answers), "client", "answer")
				put(float64(c.Upstream), "upstream", "untracked")
				put(float64(c.Unserved), "cluster_dns", "unserved")
				put(float64(c.Limited), "cluster_dns", "limited")
				put(float64(c.Bypassed), "cluster_dns", "bypassed")
				put(float64(c.OutOfScope), "cluster_dns", "out_of_scope")
				put(float64(c.Resolvers), "cluster_dns", "resolver")
				put(float64(c.Uplink), "cluster_dns", "uplink")
				put(float64(c.Loopback), "cluster_dns", "loopback")
				put(float64(c.LastResort), "cluster_dns", "last_resort")
				put(float64(c.Direct), "nowhere", "direct")
				put(float64(c.Stray), "nowhere", "stray")
			}},
	}
}

func conntrackMetrics() []metric {
	return []metric{
		ofConntrack("dnslet_conntrack_entries", "Entries of this node's connection table.", gauge, func(c *api.Conntrack) uint64 { return c.Entries }),
		ofConntrack("dnslet_conntrack_limit_entries", "How many it holds at most.", gauge, func(c *api.Conntrack) uint64 { return c.Limit }),
		ofConntrack("dnslet_conntrack_insert_failed_total", "Entries that could not be inserted; their packets were dropped.", counter,
			func(c *api.Conntrack) uint64 { return c.InsertFailed }),
		ofConntrack("dnslet_conntrack_dropped_total", "Packets dropped, such as for a full table.", counter, func(c *api.Conntrack) uint64 { return c.Drop }),
		ofConntrack("dnslet_conntrack_early_dropped_total", "Entries thrown out to make room.", counter, func(c *api.Conntrack) uint64 { return c.EarlyDrop }),
		ofConntrack("dnslet_conntrack_clashes_resolved_total", "Clashes of two entries that the kernel repaired.", counter,
			func(c *api.Conntrack) uint64 { return c.ClashResolve }),
	}
}
