// Package cache keeps answers as the bytes they go out in.
//
// An entry holds everything of an answer that follows the question, and where its TTLs are; a reply is the
// request itself with that tail appended. Looking an entry up takes no lock, allocates nothing and reads no
// clock; entries never change once they are published, so what Get returned stays valid for as long as the
// caller likes. Storing takes one mutex, which only misses ever touch.
//
// One byte budget covers all of it: entries, keys, TTL offsets and the table, each at the size the allocator
// really hands out. What has to go is chosen by SIEVE (Zhang et al., NSDI 2024): a queue in order of arrival,
// one bit per entry that a hit sets, and a hand that clears bits until it meets one that is clear.
//
// Time is a number of nanoseconds that the caller passes in (Cache.Now is the clock both sides share). The
// life of an entry is described at State.
//
// The package does not ask upstream, does not join questions that are asked at the same time, does not count
// hits and does not decide who may ask: the resolver does.
package cache

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dnslet/dnslet/wire"
)

// MinBytes is the smallest budget New accepts. Below it the empty table would be a noticeable share.
const MinBytes = 64 << 10

const (
	// maxTTL bounds every configured lifetime. It leaves room to add two of them to a clock without overflow
	// and is longer than any sane record: RFC 8767, section 4 caps TTLs at seven days.
	maxTTL = 10 * 365 * 24 * time.Hour
	// maxFailureTTL is the longest a resolution failure may be remembered: RFC 9520, section 3.2.
	maxFailureTTL = 5 * time.Minute
	// minFailureTTL is the shortest: RFC 9520, section 3.2.
	minFailureTTL = time.Second
	// maxPrefetchHits keeps the hit counter, 24 bits beside the flags, far from overflow even when many
	// readers pass the threshold in the same moment.
	maxPrefetchHits = 10_000
)

// Config is what New needs. Start from Default: a zero means zero, not "unset".
type Config struct {
	Bytes          int64         // budget for everything, at least MinBytes
	MinTTL         time.Duration // answers live at least so long, whatever their TTL says; 0: their own TTL
	MaxTTL         time.Duration // answers live at most so long
	MaxNegativeTTL time.Duration // NXDOMAIN and NODATA live at most so long; 0: they are not kept
	StaleFor       time.Duration // how long past its TTL an answer may stand in for one that cannot be had; 0: never
	FailureTTL     time.Duration // how long a failure is remembered; doubles with each that follows at once
	FailureMaxTTL  time.Duration // where the doubling ends
	PrefetchHits   int           // an entry that was hit so often is refreshed before it expires; 0: none is
	Now            func() int64  // nanoseconds of a clock that never goes back; nil: the monotonic clock since New
}

// Default is the configuration used unless told otherwise.
func Default() Config {
	return Config{
		Bytes:  32 << 20,
		MinTTL: 0,
		MaxTTL: 24 * time.Hour,
		// Far below the 1 to 3 hours of RFC 2308, section 5: on a node most negatives are names of Services,
		// and one that has just been created must be seen soon.
		MaxNegativeTTL: 30 * time.Second,
		// RFC 8767 allows days. Addresses of pods are given to other pods within hours.
		StaleFor:   time.Hour,
		FailureTTL: time.Second,
		// RFC 9520 lets failures live for 5 minutes, RFC 8767 wants 30 s between attempts to refresh. Both
		// protect servers of strangers. Ours is one hop away, its answer after an outage is what pods wait for.
		FailureMaxTTL: 5 * time.Second,
		PrefetchHits:  3,
	}
}

func (cfg *Config) validate() error {
	switch {
	case cfg.Bytes < MinBytes:
		return fmt.Errorf("budget of %d bytes is below %d", cfg.Bytes, MinBytes)
	case cfg.FailureTTL < minFailureTTL:
		return fmt.Errorf("failure TTL %v is below %v (RFC 9520, section 3.2)", cfg.FailureTTL, minFailureTTL)
	case cfg.FailureMaxTTL < cfg.FailureTTL:
		return fmt.Errorf("largest failure TTL %v is below the first, %v", cfg.FailureMaxTTL, cfg.FailureTTL)
	case cfg.FailureMaxTTL > maxFailureTTL:
		return fmt.Errorf("largest failure TTL %v is above %v (RFC 9520, section 3.2)", cfg.FailureMaxTTL, maxFailureTTL)
	case cfg.PrefetchHits < 0 || cfg.PrefetchHits > maxPrefetchHits:
		return fmt.Errorf("prefetch after %d hits is not within 0 and %d", cfg.PrefetchHits, maxPrefetchHits)
	}
	return Lifetimes{cfg.MinTTL, cfg.MaxTTL, cfg.MaxNegativeTTL, cfg.StaleFor}.Validate()
}

// Lifetimes bounds how long answers of one zone live. A zone that wants other bounds than the rest takes
// Cache.Lifetimes, changes it and passes it with each Put.
type Lifetimes struct {
	MinTTL         time.Duration
	MaxTTL         time.Duration
	MaxNegativeTTL time.Duration
	StaleFor       time.Duration
}

// Validate reports what makes l unusable.
func (l Lifetimes) Validate() error {
	switch {
	case l.MinTTL < 0 || l.MaxNegativeTTL < 0 || l.StaleFor < 0:
		return fmt.Errorf("lifetime below zero: min %v, max negative %v, stale %v", l.MinTTL, l.MaxNegativeTTL, l.StaleFor)
	case l.MaxTTL < time.Second || l.MaxTTL < l.MinTTL:
		return fmt.Errorf("largest TTL %v is below one second or below the smallest, %v", l.MaxTTL, l.MinTTL)
	case l.MaxTTL > maxTTL || l.MaxNegativeTTL > maxTTL || l.StaleFor > maxTTL:
		return fmt.Errorf("lifetime above ten years: max %v, max negative %v, stale %v", l.MaxTTL, l.MaxNegativeTTL, l.StaleFor)
	}
	return nil
}

// Cache is a bounded set of answers. Get may be called by any number of goroutines at any time; so may all
// other methods, which take turns.
type Cache struct {
	seed    maphash.Seed
	tables  [shards]atomic.Pointer[table]
	settled uint32 // the flags of an entry that a hit has nothing to add to
	hot     uint32 // hits that make an entry hot, shifted as in Entry.state

	cfg Config
	now func() int64

	mu    sync.Mutex // guards every write to tables and what follows
	queue queue
	stats counters
}

// New returns an empty cache.
func New(cfg Config) (*Cache, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("cannot make cache: %w", err)
	}
	c := &Cache{seed: maphash.MakeSeed(), cfg: cfg, now: cfg.Now, settled: visited}
	if c.now == nil {
		start := time.Now()
		c.now = func() int64 { return int64(time.Since(start)) }
	}
	if cfg.PrefetchHits > 0 {
		c.settled |= hot
		c.hot = uint32(cfg.PrefetchHits) * oneHit
	}
	for i := range c.tables {
		t := newTable(1)
		c.tables[i].Store(t)
		c.stats.tableBytes.Add(t.bytes())
	}
	return c, nil
}

// Now is the time in the cache's own clock, which is the one that Get, Put and Entry.State count in.
func (c *Cache) Now() int64 { return c.now() }

// Lifetimes returns the bounds that hold where Put is given none.
func (c *Cache) Lifetimes() Lifetimes {
	return Lifetimes{c.cfg.MinTTL, c.cfg.MaxTTL, c.cfg.MaxNegativeTTL, c.cfg.StaleFor}
}

// Get returns the entry stored under key (wire.Query.Key), or nil. It returns an expired one too: Entry.State
// says what it is good for. It takes no lock, allocates nothing, keeps no reference to key, and on an entry
// that is already known to be in demand it writes nothing.
func (c *Cache) Get(key []byte, now int64) *Entry {
	h := c.hashOf(key)
	e := c.tables[h>>shardShift].Load().find(h, key)
	if e == nil {
		return nil
	}
	if s := e.state.Load(); s&c.settled != c.settled && now < e.StaleUntil {
		c.touch(e, s)
	}
	return e
}

// hashOf depends on a seed of this process: who chooses names cannot choose buckets.
func (c *Cache) hashOf(key []byte) uint32 { return uint32(maphash.Bytes(c.seed, key)) }

// touch notes a hit. Bits are only ever set when they are clear: a popular entry stays in every core's cache
// as a shared line.
func (c *Cache) touch(e *Entry, s uint32) {
	if s&visited == 0 {
		e.state.Or(visited)
	}
	if c.hot != 0 && s&hot == 0 && e.state.Add(oneHit) >= c.hot {
		e.state.Or(hot)
	}
}

// PutOptions goes with an answer into the cache.
type PutOptions struct {
	// Lifetimes of the zone the name is in; nil: those of the cache.
	Lifetimes *Lifetimes
	// Epoch of the upstream group, read before the question was asked. An outage that ended while the question
	// was under way must not be remembered as if it lasted.
	Epoch uint64
}

// Put stores what upstream said about key and returns the entry that answers the key from now on, or nil when
// the answer is none to keep: use NewEntry for those who wait. a may be reused afterwards.
//
// Kept is what is stored under a key that may be looked up (wire.KeyCacheable), whole, meant for every client (RFC
// 7871, section 7.3.1), of a kind the RFCs let us keep, and has a TTL.
//
// A failure (RFC 9520) is stored like any answer, but never in place of one that is fresh or may be served
// stale (RFC 8767, section 5): then the older answer is returned, and remembers when to try again. An answer
// with a TTL of 0, or a negative one without SOA, removes what was stored: it is known to be outdated.
func (c *Cache) Put(key []byte, a *wire.Answer, now int64, o PutOptions) *Entry {
	if !wire.KeyCacheable(key) || a.Kind != wire.Failure && !keepable(a) {
		return nil
	}
	e := c.entry(key, a, now, o)
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.tables[e.hash>>shardShift].Load().find(e.hash, key)
	if a.Kind == wire.Failure {
		e.fail(old, now, &c.cfg)
		if old != nil && old.Kind != wire.Failure && now < old.StaleUntil {
			e = old.failed(e)
			c.swap(old, e)
			c.stats.heldBack.Add(1)
			return e
		}
	}
	// One entry must not empty the cache. Only tiny budgets see an answer that large: it has at most 64 KiB.
	large := e.bytes() > c.cfg.Bytes/4
	if old != nil {
		c.stats.replaced.Add(1)
	}
	switch {
	case large || e.Expires <= now:
		if large {
			c.stats.tooLarge.Add(1)
		}
		if old != nil {
			c.remove(old)
		}
		return nil
	case old != nil:
		c.swap(old, e)
		c.evict(0)
	default:
		c.add(e)
	}
	c.stats.puts.Add(1)
	return e
}

// NewEntry makes an entry that is in no table, for askers that wait for an answer that cannot be kept. Its
// TTLs obey the lifetimes. Fill works at any time; State means nothing.
func (c *Cache) NewEntry(key []byte, a *wire.Answer, now int64, o PutOptions) *Entry {
	e := c.entry(key, a, now, o)
	e.StaleUntil = e.Expires // it must not call itself stale, even with a TTL of 0
	return e
}

func (c *Cache) entry(key []byte, a *wire.Answer, now int64, o PutOptions) *Entry {
	l := c.Lifetimes()
	if o.Lifetimes != nil {
		l = *o.Lifetimes
	}
	e := newEntry(key, a, now, l)
	e.hash = c.hashOf(key)
	e.Epoch = o.Epoch
	return e
}

// add publishes e, whose key is not in the cache, after making room for it. The caller holds mu.
func (c *Cache) add(e *Entry) {
	need := e.bytes()
	c.evict(need)
	for !c.tables[e.hash>>shardShift].Load().insert(e) {
		c.grow(int(e.hash>>shardShift), need)
	}
	c.queue.push(e)
	c.stats.add(e)
}

// swap publishes e in the place of old, so that a reader sees the one or the other and never neither. Who is
// replaced was asked for again after it expired, or at its end: that is what the visited bit stands for. The
// caller holds mu.
func (c *Cache) swap(old, e *Entry) {
	e.state.Or(visited)
	c.tables[e.hash>>shardShift].Load().replace(old, e)
	c.queue.replace(old, e)
	c.stats.sub(old)
	c.stats.add(e)
}

// remove takes e out. The caller holds mu and counts why.
func (c *Cache) remove(e *Entry) {
	c.tables[e.hash>>shardShift].Load().remove(e)
	c.queue.remove(e)
	c.stats.sub(e)
}

// evict removes entries until need more bytes fit into the budget. The caller holds mu.
func (c *Cache) evict(need int64) {
	for c.stats.bytes()+need > c.cfg.Bytes {
		e := c.queue.victim()
		if e == nil {
			return
		}
		c.remove(e)
		c.stats.evicted.Add(1)
	}
}

// grow doubles one of the tables, for an entry that needs so many bytes. Readers go on with the old one, which
// holds the same entries, until they load the new one. Both count against the budget for that moment. The
// caller holds mu.
func (c *Cache) grow(shard int, need int64) {
	old := c.tables[shard].Load()
	for size := 2 * len(old.buckets); ; size *= 2 {
		t := newTable(size)
		c.evict(t.bytes() + need)
		if t.copy(old) {
			c.tables[shard].Store(t)
			c.stats.tableBytes.Add(t.bytes() - old.bytes())
			return
		}
	}
}

// keepable reports whether a, which is no failure, may be kept.
func keepable(a *wire.Answer) bool {
	if a.Truncated || a.ECSScope > 0 {
		return false
	}
	return a.Kind == wire.Positive || a.Kind == wire.NXDomain || a.Kind == wire.NoData
}

// sameKey reports whether e is stored under key.
func (e *Entry) sameKey(key []byte) bool {
	return bytes.Equal(e.buf[:e.keyLen], key)
}
