package admin

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/dnslet/dnslet/api"
	"github.com/dnslet/dnslet/intercept"
	"github.com/dnslet/dnslet/resolver"
	"github.com/dnslet/dnslet/upstream"
)

// metric is one family of series: its name, what it says, and how it is read from a snapshot.
type metric struct {
	name, help string
	kind       prometheus.ValueType
	labels     []string
	read       func(s *Snapshot, put put)
}

// put takes one value and the values of its labels.
type put func(value float64, labels ...string)

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

// collector makes a scrape from one snapshot: nothing is kept between scrapes, so that a series ends with what it is of.
type collector struct {
	source  Source
	metrics []metric
	descs   []*prometheus.Desc // of metrics, by index
	misses  *prometheus.Desc
}

// registry returns everything that /metrics serves: ours, and Go's own about the runtime and the process.
func registry(source Source) *prometheus.Registry {
	c := &collector{source: source, metrics: metrics(), misses: prometheus.NewDesc(missDuration, missDurationHelp, nil, nil)}
	for _, m := range c.metrics {
		c.descs = append(c.descs, prometheus.NewDesc(m.name, m.help, m.labels, nil))
	}
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
	ch <- c.misses
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.source.Metrics()
	for i, m := range c.metrics {
		m.read(&s, func(value float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(c.descs[i], m.kind, value, labels...)
		})
	}
	ch <- missHistogram(c.misses, &s.Resolver.Misses)
}

// missHistogram turns the resolver's buckets, which are not cumulated, into Prometheus's, which are.
func missHistogram(desc *prometheus.Desc, l *resolver.Latency) prometheus.Metric {
	buckets := make(map[float64]uint64, len(l.Buckets)-1)
	var below uint64
	for i, n := range l.Buckets[:len(l.Buckets)-1] {
		below += n
		buckets[resolver.LatencyBound(i).Seconds()] = below
	}
	return prometheus.MustNewConstHistogram(desc, l.Count(), l.Sum.Seconds(), buckets)
}

// event is a metric of one counted event without labels.
func event(name, help string, e resolver.Event) metric {
	return metric{name, help, counter, nil, func(s *Snapshot, put put) { put(float64(s.Resolver.Events[e])) }}
}

// events is a metric of several counted events, told apart by one label.
func events(name, help, label string, values map[resolver.Event]string) metric {
	return metric{name, help, counter, []string{label}, func(s *Snapshot, put put) {
		for e, value := range values {
			put(float64(s.Resolver.Events[e]), value)
		}
	}}
}

// ofUpstream is a counter of each upstream group.
func ofUpstream(name, help string, read func(*upstream.Snapshot) uint64) metric {
	return metric{name, help, counter, []string{"upstream"}, func(s *Snapshot, put put) {
		for i := range s.Upstreams {
			put(float64(read(&s.Upstreams[i].Stats)), s.Upstreams[i].Name)
		}
	}}
}

// ofUpstreamBy is several counters of each upstream group, told apart by one more label.
func ofUpstreamBy(name, help, label string, read func(*upstream.Snapshot, func(string, uint64))) metric {
	return metric{name, help, counter, []string{"upstream", label}, func(s *Snapshot, put put) {
		for i := range s.Upstreams {
			read(&s.Upstreams[i].Stats, func(value string, n uint64) { put(float64(n), s.Upstreams[i].Name, value) })
		}
	}}
}

// ofUpstreamNow is a gauge of each upstream group.
func ofUpstreamNow(name, help string, read func(*upstream.Snapshot) int) metric {
	return metric{name, help, gauge, []string{"upstream"}, func(s *Snapshot, put put) {
		for i := range s.Upstreams {
			put(float64(read(&s.Upstreams[i].Stats)), s.Upstreams[i].Name)
		}
	}}
}

// ofEndpoint is a value of each endpoint there is now. The addresses are configured ones, tens at most; the last resort
// is told apart by its role, for it may be an endpoint, too.
func ofEndpoint(name, help string, kind prometheus.ValueType, read func(*upstream.EndpointStatus) float64) metric {
	return metric{name, help, kind, []string{"upstream", "endpoint", "proto", "role"}, func(s *Snapshot, put put) {
		for _, u := range s.Upstreams {
			for i := range u.Endpoints {
				e := &u.Endpoints[i]
				role := "endpoint"
				if e.LastResort {
					role = "last_resort"
				}
				put(read(e), u.Name, e.Endpoint.Addr.String(), e.Endpoint.Transport.String(), role)
			}
		}
	}}
}

// ofIntercept is a value of the interception, there only where it is in use.
func ofIntercept(name, help string, kind prometheus.ValueType, read func(*intercept.Status) float64) metric {
	return metric{name, help, kind, nil, func(s *Snapshot, put put) {
		if s.Intercept != nil {
			put(read(s.Intercept))
		}
	}}
}

// ofConntrack is a number of this node's connection table, there only where the kernel has one.
func ofConntrack(name, help string, kind prometheus.ValueType, read func(*api.Conntrack) uint64) metric {
	return metric{name, help, kind, nil, func(s *Snapshot, put put) {
		if s.Conntrack != nil {
			put(float64(read(s.Conntrack)))
		}
	}}
}

// putNamed puts a value for each slot that has a name of its own or was counted; slots without a name are summed as
// "other", so that what is counted always shows.
func putNamed(slots []uint64, name func(int) string, put put) {
	other, seen := uint64(0), map[string]bool{}
	for i, n := range slots {
		label := strings.ToLower(name(i))
		if label == "unknown" || label == "other" || seen[label] {
			other += n
			continue
		}
		seen[label] = true
		put(float64(n), label)
	}
	put(float64(other), "other")
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
