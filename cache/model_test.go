package cache

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dnslet/dnslet/wire"
)

// model is what a cache of unlimited size should say, kept in the plainest way: a map of what upstream said last.
type model struct {
	cfg  Config
	said map[string]*said
}

type said struct {
	serial               uint32 // which answer it was
	kind                 wire.Kind
	stored, until, stale int64
	hits                 int
	claimed              bool

	retry    int64 // the end of the last failure, if failures > 0
	failures int
	epoch    uint64
}

func (m *model) put(key string, serial uint32, spec answerSpec, now int64, epoch uint64) {
	old := m.said[key]
	n := &said{serial: serial, kind: spec.kind, stored: now, hits: 0, epoch: epoch}
	switch {
	case spec.kind != wire.Failure && (spec.truncated || spec.ecs > 0) || spec.kind == wire.Other:
		return
	case spec.kind == wire.Failure:
		n.failures = 1
		if old != nil && old.failures > 0 && old.epoch >= epoch && now <= old.retry+int64(m.cfg.FailureMaxTTL) {
			n.failures += old.failures
		}
		wait := m.cfg.FailureTTL
		for i := 1; i < n.failures && wait < m.cfg.FailureMaxTTL; i++ {
			wait *= 2
		}
		n.retry = now + int64(min(wait, m.cfg.FailureMaxTTL))
		if old != nil && old.kind != wire.Failure && now < old.stale {
			old.failures, old.retry, old.epoch, old.claimed = n.failures, n.retry, epoch, false
			return
		}
		n.until, n.stale = n.retry, n.retry
	default:
		life := time.Duration(spec.answer().MinTTL) * time.Second
		if spec.kind == wire.Positive {
			life = min(max(life, m.cfg.MinTTL), m.cfg.MaxTTL)
		} else {
			life = min(life, m.cfg.MaxNegativeTTL)
			if !spec.soa {
				life = 0
			}
		}
		if life == 0 {
			delete(m.said, key)
			return
		}
		n.until = now + int64(life)
		n.stale = n.until + int64(m.cfg.StaleFor)
	}
	m.said[key] = n
}

// get says what the entry should be good for.
func (m *model) get(key string, now int64) (State, *said) {
	s := m.said[key]
	switch {
	case s == nil:
		return Gone, nil
	case now >= s.stale:
		return Gone, s
	}
	s.hits++
	switch {
	case now >= s.until && s.failures > 0 && now < s.retry:
		return Held, s
	case now >= s.until:
		return Stale, s
	case s.kind == wire.Failure:
		return Failed, s
	case s.hits >= m.cfg.PrefetchHits && !s.claimed && m.due(s, now):
		s.claimed = true
		return Prefetch, s
	}
	return Fresh, s
}

func (m *model) due(s *said, now int64) bool {
	if s.failures > 0 {
		return now >= s.retry
	}
	life, left := s.until-s.stored, s.until-now
	return left <= life/10 || left <= int64(2*time.Second) && left <= life/2
}

// run plays n random operations on a cache and on the model, and hands each lookup to check.
func run(t *testing.T, seed uint64, n int, cfg Config, names int, check func(now int64, e *Entry, want State, s *said) error) *Cache {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := &model{cfg: cfg, said: map[string]*said{}}
	now, epoch := int64(0), uint64(0)
	var last string
	for i := range n {
		name := fmt.Sprintf("n%d.example.", int(float64(names)*r.Float64()*r.Float64()))
		key := testKey(name, wire.FlagRD)
		switch op := r.IntN(100); {
		case op < 30:
			spec := randomSpec(r)
			last = fmt.Sprintf("op %d at %v: put %s %+v epoch %d", i, time.Duration(now), name, spec, epoch)
			a := spec.answer()
			a.Tail = binary.BigEndian.AppendUint32(a.Tail, uint32(i)) // which answer it is, seen at lookups
			c.Put(key, a, now, PutOptions{Epoch: epoch})
			m.put(string(key), uint32(i), spec, now, epoch)
		case op < 32:
			now += r.Int64N(int64(40 * time.Second))
		case op < 70:
			now += r.Int64N(int64(time.Second))
		case op == 70 && r.IntN(10) == 0:
			c.sweep(now) // nobody can tell, but for the counts
		case op == 71 && r.IntN(40) == 0:
			c.Flush(func(name []byte) bool { return name[2]%2 == 0 })
			for key := range m.said {
				if key[2]%2 == 0 {
					delete(m.said, key)
				}
			}
		case op == 72:
			epoch++
		default:
			want, s := m.get(string(key), now)
			if err := check(now, c.Get(key, now), want, s); err != nil {
				t.Fatalf("seed %d, op %d at %v: %s: %v\nlast put: %s", seed, i, time.Duration(now), name, err, last)
			}
		}
		if got := c.Bytes(); got > cfg.Bytes {
			t.Fatalf("seed %d, op %d: %d bytes in use, budget %d", seed, i, got, cfg.Bytes)
		}
	}
	return c
}

func randomSpec(r *rand.Rand) answerSpec {
	s := answerSpec{kind: wire.Positive, truncated: r.IntN(40) == 0}
	if r.IntN(40) == 0 {
		s.ecs = 24
	}
	switch r.IntN(10) {
	case 0, 1, 2:
		s.kind, s.soa, s.soaTTL = wire.NXDomain, r.IntN(10) > 0, uint32(r.IntN(60))
	case 3:
		s.kind, s.soa, s.soaTTL = wire.NoData, r.IntN(10) > 0, uint32(r.IntN(60))
	case 4, 5:
		s.kind = wire.Failure
	case 6:
		s.kind = wire.Other
	default:
		for range 1 + r.IntN(5) {
			s.ttls = append(s.ttls, uint32(r.IntN(100)))
		}
		s.size = r.IntN(300)
	}
	return s
}

// With room for all, the cache says what the model says, at each of many random operations.
//
// Red when: State says "now <= e.Expires", fail forgets "old.Epoch >= e.Epoch", or failed keeps the claimed bit.
func TestModel(t *testing.T) {
	cfg := Default()
	cfg.StaleFor = time.Minute
	for seed := range uint64(20) {
		c := run(t, seed, 20_000, cfg, 40, func(now int64, e *Entry, want State, s *said) error {
			if e == nil {
				if want != Gone {
					return fmt.Errorf("not found, want %v", want)
				}
				return nil
			}
			if got := e.State(now); got != want {
				return fmt.Errorf("%v, want %v", got, want)
			}
			if want == Gone {
				return nil
			}
			return sameAnswer(e, s, now)
		})
		if c.stats.evicted.Load() > 0 {
			t.Fatal("evicted something: the budget is too small for this test")
		}
	}
}

// sameAnswer checks that e carries the answer s.
func sameAnswer(e *Entry, s *said, now int64) error {
	var r wire.Reply
	e.Fill(&r, now)
	if e.Kind != s.kind || e.Stored != s.stored || e.Epoch != s.epoch || int(e.fails) != min(s.failures, 31) {
		return fmt.Errorf("entry %v of %v, epoch %d, %d failures; want %v of %v, epoch %d, %d failures",
			e.Kind, e.Stored, e.Epoch, e.fails, s.kind, s.stored, s.epoch, s.failures)
	}
	if s.kind == wire.Failure {
		if len(r.Tail) > 0 || len(r.TTLs) > 0 {
			return fmt.Errorf("a failure with %d bytes", len(r.Tail))
		}
		return nil
	}
	if got := binary.BigEndian.Uint32(r.Tail[len(r.Tail)-4:]); got != s.serial {
		return fmt.Errorf("answer number %d, want %d", got, s.serial)
	}
	return nil
}

// With room for few, whatever is found is right: not past its TTL, no TTL that reaches beyond the end of what
// upstream granted, an age that only grows; and the budget is never exceeded (see run).
//
// Red when: Fill leaves out r.Age, evict is called with 0 in place of need, or grow with it.
func TestNothingIsServedBeyondItsTTL(t *testing.T) {
	cfg := Default()
	cfg.Bytes = MinBytes
	cfg.MaxNegativeTTL = time.Hour
	for seed := range uint64(10) {
		ages := map[*Entry]uint32{}
		c := run(t, seed, 50_000, cfg, 5000, func(now int64, e *Entry, want State, s *said) error {
			if e == nil {
				return nil
			}
			state := e.State(now)
			if state == Gone || e.Kind == wire.Failure {
				return nil // an eviction makes the cache forget failures, and with them their number
			}
			var r wire.Reply
			e.Fill(&r, now)
			if state == Fresh || state == Prefetch {
				if s == nil || now >= s.until {
					return fmt.Errorf("%v after its end", state)
				}
				for _, ttl := range r.TTLs {
					if left := time.Duration(s.until - now); r.Age < ttl.TTL && ttl.TTL == uint32((e.Expires-e.Stored)/1e9) &&
						time.Duration(ttl.TTL-r.Age)*time.Second >= left+time.Second {
						return fmt.Errorf("TTL %d less age %d, with %v left", ttl.TTL, r.Age, left)
					}
				}
				if r.Age < ages[e] {
					return fmt.Errorf("age %d after %d", r.Age, ages[e])
				}
				ages[e] = r.Age
			} else if r.TTLCap > 30 {
				return fmt.Errorf("%v with a TTL up to %d", state, r.TTLCap)
			}
			return nil
		})
		if c.stats.evicted.Load() == 0 {
			t.Fatal("evicted nothing: the budget is too large for this test")
		}
	}
}
