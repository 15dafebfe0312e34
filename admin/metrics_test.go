package admin

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/dnslet/dnslet/api"
	"github.com/dnslet/dnslet/intercept"
	"github.com/dnslet/dnslet/upstream"
)

// full is a snapshot in which every part is in use.
func full() Snapshot {
	return Snapshot{
		Version:   "v1.2.3",
		Upstreams: []Upstream{{Name: "default", Endpoints: []upstream.EndpointStatus{{}}}},
		Intercept: &intercept.Status{Alive: []intercept.Alive{{}}},
		Conntrack: &api.Conntrack{},
	}
}

// scrape is the text of /metrics, without the comments.
func scrape(t *testing.T, s Snapshot) string {
	t.Helper()
	r := registry(&fakeAgent{metrics: s})
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "dnslet_") {
			continue
		}
		for _, m := range f.GetMetric() {
			switch {
			case m.Gauge != nil:
				fmt.Fprintf(&b, "%s %v\n", f.GetName(), m.Gauge.GetValue())
			case m.Counter != nil:
				fmt.Fprintf(&b, "%s %v\n", f.GetName(), m.Counter.GetValue())
			case m.Histogram != nil:
				last := uint64(0)
				for _, bucket := range m.Histogram.GetBucket() {
					fmt.Fprintf(&b, "%s_bucket %d\n", f.GetName(), bucket.GetCumulativeCount()-last)
					last = bucket.GetCumulativeCount()
				}
				fmt.Fprintf(&b, "%s_bucket %d\n", f.GetName(), m.Histogram.GetSampleCount()-last)
				fmt.Fprintf(&b, "%s_sum %v\n", f.GetName(), m.Histogram.GetSampleSum())
			}
		}
	}
	return b.String()
}

// numbers calls visit with every settable number in v, by its path.
func numbers(v reflect.Value, path string, visit func(reflect.Value, string)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			numbers(v.Elem(), path, visit)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				numbers(v.Field(i), path+"."+v.Type().Field(i).Name, visit)
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			numbers(v.Index(i), fmt.Sprintf("%s[%d]", path, i), visit)
		}
	case reflect.Int, reflect.Int64, reflect.Uint64, reflect.Uint8, reflect.Bool:
		visit(v, path)
	}
}

// unlabelled are numbers that are the values of labels, or sums of others that are exposed.
var unlabelled = map[string]string{
	".Cache.Entries":                                "the sum of the entries by kind",
	".Upstreams[0].Endpoints[0].LastResort":         "the label role",
	".Upstreams[0].Endpoints[0].Endpoint.Transport": "the label proto",
	".Intercept.Alive[0].Transport":                 "the label proto",
}

// Red when: a field is added to a Stats struct, or an event to resolver, without a metric; or a metric reads the wrong field.
func TestEveryCounterIsExposed(t *testing.T) {
	base := full()
	before := scrape(t, base)
	var paths []string
	numbers(reflect.ValueOf(&base), "", func(_ reflect.Value, path string) { paths = append(paths, path) })
	if len(paths) < 150 {
		t.Fatalf("only %d numbers found in a snapshot: the walk is broken", len(paths))
	}
	for i, path := range paths {
		if unlabelled[path] != "" {
			continue
		}
		s := full()
		want := 0.0
		numbers(reflect.ValueOf(&s), "", func(v reflect.Value, p string) {
			if p == path {
				want = set(v, 100+i)
			}
		})
		after := scrape(t, s)
		if after == before {
			t.Errorf("%s: /metrics does not show it", path)
			continue
		}
		found := 0
		for line := range strings.Lines(after) {
			var name string
			var value float64
			fmt.Sscan(line, &name, &value)
			if math.Abs(value-want) <= 1e-9*math.Abs(want) {
				found++
			}
		}
		if found == 0 {
			t.Errorf("%s: set to %v, but no series has that value", path, want)
		}
	}
}

// set gives v a value of its own and returns it as a metric in base units shows it.
func set(v reflect.Value, n int) float64 {
	switch {
	case v.Type() == reflect.TypeFor[time.Duration]():
		v.SetInt(int64(n) * int64(time.Second))
		return float64(n)
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
		return 1
	case v.Kind() == reflect.Uint8:
		v.SetUint(1)
		return 1
	case v.CanUint():
		v.SetUint(uint64(n))
	default:
		v.SetInt(int64(n))
	}
	return float64(n)
}

// Red when: a counter is not called _total, a gauge is, a help text is missing, or a unit is not a base unit.
func TestMetricNamesPassPromlint(t *testing.T) {
	problems, err := testutil.GatherAndLint(registry(&fakeAgent{metrics: full()}))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "dnslet_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	for _, m := range metrics() {
		if !strings.HasPrefix(m.name, "dnslet_") {
			t.Errorf("%s: does not begin with dnslet_", m.name)
		}
		if !strings.HasSuffix(m.help, ".") {
			t.Errorf("%s: its help is no sentence: %q", m.name, m.help)
		}
	}
}

// Red when: the buckets are handed on without being cumulated.
func TestMissHistogramIsCumulated(t *testing.T) {
	s := full()
	s.Resolver.Misses.Buckets[0], s.Resolver.Misses.Buckets[3] = 2, 5
	s.Resolver.Misses.Buckets[len(s.Resolver.Misses.Buckets)-1] = 1
	s.Resolver.Misses.Sum = 4 * time.Second
	var b bytes.Buffer
	r := registry(&fakeAgent{metrics: s})
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != missDuration {
			continue
		}
		h := f.GetMetric()[0].GetHistogram()
		for _, k := range h.GetBucket() {
			fmt.Fprintf(&b, "%g:%d ", k.GetUpperBound(), k.GetCumulativeCount())
		}
		fmt.Fprintf(&b, "count %d sum %g", h.GetSampleCount(), h.GetSampleSum())
	}
	if got := b.String(); !strings.HasPrefix(got, "0.000128:2 0.000256:2 0.000512:2 0.001024:7 ") || !strings.HasSuffix(got, "count 8 sum 4") {
		t.Errorf("histogram is %s", got)
	}
}
