package cache

import (
	"sync/atomic"

	"github.com/dnslet/dnslet/wire"
)

// Stats is what the cache holds, and what became of what it held.
type Stats struct {
	Entries    int64 // Positive to Failed together
	Positive   int64
	NXDomain   int64
	NoData     int64
	Failed     int64
	Bytes      int64 // all the memory that counts, TableBytes included
	TableBytes int64
	Limit      int64 // Config.Bytes

	// Since New:
	Puts     uint64 // answers stored, those that replaced another included
	Replaced uint64 // entries that gave way to a newer answer to the same question
	HeldBack uint64 // failures that did not replace an answer that is still usable
	Evicted  uint64 // entries removed to make room
	Expired  uint64 // entries removed because they were good for nothing any more
	Flushed  uint64 // entries removed by Flush
	TooLarge uint64 // answers of more than a quarter of the budget, not stored
}

// counters are what Stats is made of. Only the holder of Cache.mu writes, anyone reads.
type counters struct {
	positive, nxdomain, nodata, failure atomic.Int64
	entryBytes, tableBytes              atomic.Int64

	puts, replaced, heldBack, evicted, expired, flushed, tooLarge atomic.Uint64
}

// kind returns the counter of entries of a kind. Nothing but these four is ever stored.
func (s *counters) kind(k wire.Kind) *atomic.Int64 {
	switch k {
	case wire.Positive:
		return &s.positive
	case wire.NXDomain:
		return &s.nxdomain
	case wire.NoData:
		return &s.nodata
	}
	return &s.failure
}

func (s *counters) add(e *Entry) {
	s.kind(e.Kind).Add(1)
	s.entryBytes.Add(e.bytes())
}

func (s *counters) sub(e *Entry) {
	s.kind(e.Kind).Add(-1)
	s.entryBytes.Add(-e.bytes())
}

func (s *counters) bytes() int64 { return s.entryBytes.Load() + s.tableBytes.Load() }

// Snapshot returns the counts. Each is exact; taken while others write, they need not be of the same moment.
func (c *Cache) Snapshot() Stats {
	s := &c.stats
	st := Stats{
		Positive: s.positive.Load(), NXDomain: s.nxdomain.Load(), NoData: s.nodata.Load(), Failed: s.failure.Load(),
		Bytes: s.bytes(), TableBytes: s.tableBytes.Load(), Limit: c.cfg.Bytes,
		Puts: s.puts.Load(), Replaced: s.replaced.Load(), HeldBack: s.heldBack.Load(), Evicted: s.evicted.Load(),
		Expired: s.expired.Load(), Flushed: s.flushed.Load(), TooLarge: s.tooLarge.Load(),
	}
	st.Entries = st.Positive + st.NXDomain + st.NoData + st.Failed
	return st
}

// Len is the number of entries, expired ones included.
func (c *Cache) Len() int { return int(c.Snapshot().Entries) }

// Bytes is the memory in use, as the budget counts it.
func (c *Cache) Bytes() int64 { return c.stats.bytes() }
