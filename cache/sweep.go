package cache

import (
	"context"
	"time"

	"github.com/dnslet/dnslet/wire"
)

const (
	// sweepEvery is how often entries that are good for nothing are looked for. Nothing depends on it: nobody
	// serves them, and eviction takes them when room is needed. It lets an idle agent give memory back.
	sweepEvery = 30 * time.Second
	// sweepBuckets is how many buckets are looked at under one hold of the writer lock: some 50 us.
	sweepBuckets = 128
)

// Run removes what is good for nothing any more, from time to time, until ctx is done. It returns nil. The
// cache works without it.
func (c *Cache) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			c.sweep(c.now())
		}
	}
}

// sweep removes the entries that are good for nothing any more at now, and returns how many they were. It
// takes the writer lock for a few buckets at a time.
func (c *Cache) sweep(now int64) int {
	n := c.removeAll(func(e *Entry) bool {
		if e.fails > 0 {
			// As long as the next failure would count as one of the same row.
			return now > max(e.StaleUntil, e.Refresh+int64(c.cfg.FailureMaxTTL))
		}
		return now >= e.StaleUntil
	})
	c.stats.expired.Add(uint64(n))
	return n
}

// Flush removes the entries of all names, in wire format and lower case, for which match returns true, and
// returns how many they were. nil matches all. match must neither keep the name nor call the cache. What is
// stored while Flush runs may or may not be removed.
func (c *Cache) Flush(match func(name []byte) bool) int {
	n := c.removeAll(func(e *Entry) bool { return match == nil || match(wire.KeyName(e.Key())) })
	c.stats.flushed.Add(uint64(n))
	return n
}

// removeAll removes the entries that are unwanted and returns how many they were.
func (c *Cache) removeAll(unwanted func(*Entry) bool) int {
	n := 0
	for shard := range c.tables {
		t, from := c.tables[shard].Load(), 0
		for from < len(t.buckets) {
			var removed int
			t, from, removed = c.removeSome(shard, t, from, unwanted)
			n += removed
		}
	}
	return n
}

// removeSome does so in sweepBuckets buckets and returns where to go on. A table that is not t any more has
// doubled: its entries may be in buckets that were seen already, so it is looked at from the start.
func (c *Cache) removeSome(shard int, t *table, from int, unwanted func(*Entry) bool) (*table, int, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.tables[shard].Load(); now != t {
		t, from = now, 0
	}
	removed, to := 0, min(from+sweepBuckets, len(t.buckets))
	for i := from; i < to; i++ {
		for e := range t.buckets[i].entries {
			if unwanted(e) {
				c.remove(e)
				removed++
			}
		}
	}
	return t, to, removed
}
