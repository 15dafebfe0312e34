package upstream

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"
)

// load asks at a fixed rate for a while and returns how long each question took, sorted.
func load(b *testing.B, g *Group, perSecond int, during time.Duration) (took []time.Duration) {
	var (
		mu sync.Mutex
		wg sync.WaitGroup
		q  = query(b, "name.example.")
	)
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	for end := time.Now().Add(during); time.Now().Before(end); {
		<-tick.C
		wg.Go(func() {
			began := time.Now()
			if _, _, err := g.Exchange(context.Background(), q, nil); err != nil {
				b.Error(err)
			}
			d := time.Since(began)
			mu.Lock()
			defer mu.Unlock()
			took = append(took, d)
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took
}

// BenchmarkBlackHole turns one of three endpoints, each 3 ms away, into a black hole under 500 questions per second, and
// reports the 99th percentile before, within the first second, and after it. Run with -benchtime 1x.
func BenchmarkBlackHole(b *testing.B) {
	p99 := func(took []time.Duration) float64 {
		return float64(took[len(took)*99/100].Microseconds()) / 1000
	}
	for b.Loop() {
		hole := newServer(b, "127.0.0.1", after(b, 3*time.Millisecond))
		g := newGroup(b, udp(hole, newServer(b, "127.0.0.2", after(b, 3*time.Millisecond)),
			newServer(b, "127.0.0.3", after(b, 3*time.Millisecond))), nil)
		run(b, g)
		load(b, g, 500, time.Second)
		before := p99(load(b, g, 500, 4*time.Second))
		hole.play(silent)
		first := load(b, g, 500, time.Second)
		later := p99(load(b, g, 500, 4*time.Second))
		b.ReportMetric(before, "ms-p99-healthy")
		b.ReportMetric(p99(first), "ms-p99-first-second")
		b.ReportMetric(float64(first[len(first)-1].Milliseconds()), "ms-max-first-second")
		b.ReportMetric(later, "ms-p99-later")
		b.ReportMetric(later/before, "ratio-p99")
		n := g.Snapshot()
		b.ReportMetric(100*float64(n.Asked-n.Exchanges-n.Probes)/float64(n.Exchanges), "%-extra-load")
	}
}
