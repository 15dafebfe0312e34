package cache

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/dnslet/dnslet/wire"
)

func benchCache(b *testing.B, bytes int64, names int) (*Cache, [][]byte) {
	b.Helper()
	cfg := Default()
	cfg.Bytes = bytes
	c, err := New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	a := answerSpec{kind: wire.NXDomain, soa: true, soaTTL: 30}.answer()
	keys := make([][]byte, names)
	for i := range keys {
		keys[i] = numbered(nil, i)
		c.Put(keys[i], a, 0, PutOptions{})
	}
	rand.New(rand.NewPCG(1, 1)).Shuffle(names, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	return c, keys
}

// BenchmarkGetHit looks up 1,000 names in turn, which fit into the processor's caches as a node's names do, and
// 50,000, which do not.
func BenchmarkGetHit(b *testing.B) {
	for _, size := range []struct {
		name  string
		names int
	}{{"1k", 1000}, {"50k", 50_000}} {
		b.Run(size.name, func(b *testing.B) {
			c, keys := benchCache(b, 64<<20, size.names)
			var r wire.Reply
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				e := c.Get(keys[i], 1)
				if e == nil || e.State(1) != Fresh {
					b.Fatal("no hit")
				}
				e.Fill(&r, 1)
				if i++; i == len(keys) {
					i = 0
				}
			}
		})
	}
}

func BenchmarkGetMiss(b *testing.B) {
	c, keys := benchCache(b, 64<<20, 50_000)
	for i := range keys {
		keys[i] = numbered(nil, 1_000_000+i)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if c.Get(keys[i], 1) != nil {
			b.Fatal("hit")
		}
		if i++; i == len(keys) {
			i = 0
		}
	}
}

func BenchmarkGetParallel(b *testing.B) {
	c, keys := benchCache(b, 64<<20, 1000)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if c.Get(keys[i%len(keys)], 1) == nil {
				b.Error("no hit")
				return
			}
		}
	})
}

// BenchmarkPut stores new names in a full cache, so that each evicts another; Replace stores the same names
// again.
func BenchmarkPut(b *testing.B) {
	a := answerSpec{kind: wire.NXDomain, soa: true, soaTTL: 30}.answer()
	b.Run("new", func(b *testing.B) {
		c, _ := benchCache(b, 8<<20, 50_000)
		b.ReportAllocs()
		key := make([]byte, 0, wire.MaxKey)
		i := 1_000_000
		for b.Loop() {
			key = numbered(key, i)
			c.Put(key, a, 0, PutOptions{})
			i++
		}
	})
	b.Run("replace", func(b *testing.B) {
		c, keys := benchCache(b, 64<<20, 50_000)
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			c.Put(keys[i], a, 0, PutOptions{})
			if i++; i == len(keys) {
				i = 0
			}
		}
	})
}

// BenchmarkSweep looks at 50,000 entries of which none has to go.
func BenchmarkSweep(b *testing.B) {
	c, _ := benchCache(b, 64<<20, 50_000)
	for b.Loop() {
		c.sweep(1)
	}
}

// zipf draws numbers below n, the k-th with a probability in proportion to 1/k^s; math/rand's own needs s > 1.
type zipf struct {
	r   *rand.Rand
	sum []float64
}

func newZipf(r *rand.Rand, n int, s float64) *zipf {
	z := &zipf{r, make([]float64, n)}
	total := 0.0
	for k := range z.sum {
		total += math.Pow(float64(k+1), -s)
		z.sum[k] = total
	}
	return z
}

func (z *zipf) next() int {
	x, lo, hi := z.r.Float64()*z.sum[len(z.sum)-1], 0, len(z.sum)-1
	for lo < hi {
		if mid := (lo + hi) / 2; z.sum[mid] < x {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// BenchmarkHitRatio plays traces on a cache of 2 MiB: "hit%" is what is found, "B/entry" what an entry takes,
// its share of the table included. "best%" is what a cache of so many entries that knew the future popularity
// of each name would find: the share of the most popular ones (not known for scan and search, whose mix has
// no fixed popularity).
//
//	zipf    100,000 names, s = 1
//	scan    the same, and every tenth lookup asks for a name that is never asked for again
//	search  what ndots:5 makes of it: a name is looked up with four search domains first, so that 80 % of all
//	        answers are NXDOMAIN; 20,000 names, s = 1
func BenchmarkHitRatio(b *testing.B) {
	positive := answerSpec{kind: wire.Positive, ttls: []uint32{300, 300}}.answer()
	nxdomain := answerSpec{kind: wire.NXDomain, soa: true, soaTTL: 30}.answer()
	const bytes, names = 2 << 20, 100_000
	traces := map[string]func(r *rand.Rand) func() (int, *wire.Answer){
		"zipf": func(r *rand.Rand) func() (int, *wire.Answer) {
			z := newZipf(r, names, 1)
			return func() (int, *wire.Answer) { return z.next(), positive }
		},
		"scan": func(r *rand.Rand) func() (int, *wire.Answer) {
			z, n := newZipf(r, names, 1), 0
			return func() (int, *wire.Answer) {
				if n++; n%10 == 0 {
					return names + n, nxdomain
				}
				return z.next(), positive
			}
		},
		"search": func(r *rand.Rand) func() (int, *wire.Answer) {
			z, step, name := newZipf(r, names/5, 1), 0, 0
			return func() (int, *wire.Answer) {
				if step == 0 {
					name = z.next()
				}
				step = (step + 1) % 5
				if step == 0 {
					return 5 * name, positive
				}
				return 5*name + step, nxdomain
			}
		},
	}
	for _, name := range []string{"zipf", "scan", "search"} {
		b.Run(name, func(b *testing.B) {
			r := rand.New(rand.NewPCG(1, 1))
			c, _ := benchCache(b, bytes, 0)
			next := traces[name](r)
			key := make([]byte, 0, wire.MaxKey)
			ask := func() bool {
				i, a := next()
				key = numbered(key, i)
				if c.Get(key, 0) != nil {
					return true
				}
				c.Put(key, a, 0, PutOptions{})
				return false
			}
			for range 500_000 {
				ask() // warm
			}
			hits, n := 0, 0
			for b.Loop() {
				if ask() {
					hits++
				}
				n++
			}
			st := c.Snapshot()
			b.ReportMetric(100*float64(hits)/float64(n), "hit%")
			b.ReportMetric(float64(st.Bytes)/float64(st.Entries), "B/entry")
			if name == "zipf" {
				z := newZipf(r, names, 1)
				b.ReportMetric(100*z.sum[st.Entries-1]/z.sum[names-1], "best%")
			}
		})
	}
}
