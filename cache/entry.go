package cache

import (
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/dnslet/dnslet/wire"
)

// Entry is one answer. It never changes after Put or NewEntry returned it, and may be read by any number of
// goroutines for as long as they hold it, whether it is still in the cache or not.
type Entry struct {
	buf  []byte     // key, then tail: all that follows the question, without OPT
	ttls []wire.TTL // where in the tail the TTLs are; few[:n] if that suffices
	few  [2]wire.TTL

	newer, older *Entry // see queue; only the writer reads and writes these

	// In nanoseconds of the cache's clock.
	Stored     int64
	Expires    int64 // from here on it is not fresh
	StaleUntil int64 // from here on it is good for nothing; equal to Expires where stale is not allowed
	// Refresh is when upstream may next be asked: an entry in demand is refreshed from here on while it is
	// fresh, and an expired one is served without asking until then because the last attempt failed.
	Refresh int64

	// Epoch of the upstream group when this, or the last failure to refresh this, was learned.
	Epoch uint64

	hash   uint32
	state  atomic.Uint32 // visited, hot, claimed, and hits so far
	keyLen uint16

	flags      uint16 // as on the wire
	an, ns, ar uint16
	rcode      wire.RCode
	ede        wire.EDE

	Kind  wire.Kind
	fails uint8 // failures in a row, the one this entry stands for included
}

// The bits of Entry.state.
const (
	visited = 1 << iota // asked for since the eviction hand last came by
	hot                 // hit often enough to be refreshed before it expires
	claimed             // someone does that already
	oneHit  = 1 << 8
)

// entryBytes is what the allocator takes for an Entry: a size class of its own.
const entryBytes = 144

// ttlBytes divides every size class, so that a capacity times it is what the allocator takes.
const ttlBytes = 8

// Both are checked when this is compiled.
var (
	_ [entryBytes]struct{} = [unsafe.Sizeof(Entry{})]struct{}{}
	_ [ttlBytes]struct{}   = [unsafe.Sizeof(wire.TTL{})]struct{}{}
)

const (
	// prefetchWindow is how long before its end an entry in demand is refreshed, if that is more than a tenth
	// of its life: an upstream that needs a retry answers within it. An entry that lives shortly is refreshed
	// in the second half of its life, so that demand never multiplies what upstream is asked.
	prefetchWindow = 2 * time.Second
	// staleTTL is what RFC 8767, section 4 recommends for records that are past their own TTL.
	staleTTL = 30
	// minAlloc is from where on the allocator gives an object without pointers a place of its own. Smaller ones
	// share one, and keep it alive together, which no sum over entries would show.
	minAlloc = 16
)

// State is what an entry is good for at a given moment.
//
//	Stored                 Refresh         Expires                      StaleUntil
//	  |        Fresh          | Prefetch, Fresh |           Stale            |  Gone
//	                                            |  Held, then Stale          |        a refresh has failed
//	  |        Failed                           |  Gone                               failures
type State uint8

const (
	// Gone is no answer: ask upstream as if there were no entry.
	Gone State = iota
	// Fresh is the answer.
	Fresh
	// Prefetch is the answer; this caller, and no other, has the duty to ask upstream after giving it.
	Prefetch
	// Failed is the answer SERVFAIL or the like, upstream having failed a moment ago: give it without asking
	// again. When Entry.Epoch is below that of the upstream group, the outage has ended since: Gone.
	Failed
	// Stale has expired: ask upstream first, and give this when no answer comes in time (RFC 8767, section 5).
	Stale
	// Held has expired, and upstream failed a moment ago: give it without asking again. When Entry.Epoch is
	// below that of the upstream group, the outage has ended since: Stale.
	Held
)

// String returns the name in lower case.
func (s State) String() string {
	return [...]string{"gone", "fresh", "prefetch", "failed", "stale", "held"}[s]
}

// State returns what e is good for at now. Prefetch is returned to one caller only, in the life of an entry,
// and only where it was hit as often as Config.PrefetchHits says.
func (e *Entry) State(now int64) State {
	if now < e.Expires {
		switch {
		case e.Kind == wire.Failure:
			return Failed
		case now >= e.Refresh && e.claim():
			return Prefetch
		}
		return Fresh
	}
	switch {
	case now >= e.StaleUntil:
		return Gone
	case now < e.Refresh:
		return Held
	}
	return Stale
}

// claim takes the duty to refresh e, if e is hot and nobody has it.
func (e *Entry) claim() bool {
	s := e.state.Load()
	return s&(hot|claimed) == hot && e.state.Or(claimed)&claimed == 0
}

// Fill sets all of r that comes from the entry, for a reply sent at now. r.Tail and r.TTLs are the entry's
// own: they may be read until the reply is written, and never written to.
//
// The age is in whole seconds, rounded down, so that the TTL a client sees is at least 1 while e is fresh. An
// entry past its TTL gets what RFC 8767, section 4 and RFC 8914, sections 4.4 and 4.20 ask for; a failure that
// upstream did not explain says that it is a cached one (RFC 8914, section 4.14).
func (e *Entry) Fill(r *wire.Reply, now int64) {
	r.Flags, r.RCode, r.EDE = e.flags, e.rcode, e.ede
	r.AN, r.NS, r.AR = e.an, e.ns, e.ar
	r.Tail, r.TTLs = e.buf[e.keyLen:], e.ttls
	r.Age, r.TTLCap = e.Age(now), wire.NoTTLCap
	switch {
	case e.Kind == wire.Failure:
		if r.EDE == wire.EDENone && now > e.Stored {
			r.EDE = wire.EDECachedError
		}
	case now >= e.Expires && e.StaleUntil > e.Expires:
		r.Age, r.TTLCap = 0, staleTTL // aged, its TTLs would be 0, which asks clients to ask again at once
		r.EDE = wire.EDEStale
		if e.Kind == wire.NXDomain {
			r.EDE = wire.EDEStaleNXDomain
		}
	}
}

// Age is how many whole seconds ago upstream gave the answer.
func (e *Entry) Age(now int64) uint32 {
	return uint32(max(0, now-e.Stored) / int64(time.Second))
}

// Key is what the entry is stored under; not to be written to.
func (e *Entry) Key() []byte { return e.buf[:e.keyLen:e.keyLen] }

// newEntry copies key and a. The entry of a failure has no life yet: see fail.
func newEntry(key []byte, a *wire.Answer, now int64, l Lifetimes) *Entry {
	e := &Entry{
		Stored: now, Kind: a.Kind, keyLen: uint16(len(key)),
		flags: a.Flags, rcode: a.RCode, ede: a.EDE,
	}
	tail, ttls := a.Tail, a.TTLs
	if a.Kind == wire.Failure {
		// Whatever comes with a failure is no data (RFC 9520, section 2).
		tail, ttls = nil, nil
		e.flags &^= wire.FlagTC
	} else {
		e.an, e.ns, e.ar = a.ANCount, a.NSCount, a.ARCount
	}
	// Grow takes the whole of a size class, which is what Entry.bytes counts.
	e.buf = append(slices.Grow([]byte(nil), max(minAlloc, len(key)+len(tail))), key...)
	e.buf = append(e.buf, tail...)
	e.ttls = e.few[:0]
	if len(ttls) > len(e.few) {
		e.ttls = slices.Grow([]wire.TTL(nil), len(ttls))
	}
	e.ttls = append(e.ttls, ttls...)
	life := lifetime(a, l)
	e.boundTTLs(life, l)
	e.Expires = now + int64(life)
	e.StaleUntil = e.Expires
	e.Refresh = e.Expires - int64(max(life/10, min(prefetchWindow, life/2)))
	if life > 0 {
		e.StaleUntil += int64(l.StaleFor)
	}
	return e
}

// lifetime is how long a may be served, 0 for not at all.
func lifetime(a *wire.Answer, l Lifetimes) time.Duration {
	ttl := time.Duration(a.MinTTL) * time.Second
	switch a.Kind {
	case wire.Positive:
		return min(max(ttl, l.MinTTL), l.MaxTTL)
	case wire.NXDomain, wire.NoData:
		if !a.HasSOA {
			return 0 // RFC 2308, section 5: "SHOULD NOT be cached"
		}
		return min(ttl, l.MaxNegativeTTL, l.MaxTTL)
	}
	return 0
}

// boundTTLs lets clients see the lifetimes: what we keep shorter or longer than upstream said, they do too. In
// a negative answer no TTL exceeds the life of the answer (RFC 2308, section 3).
func (e *Entry) boundTTLs(life time.Duration, l Lifetimes) {
	low, high := uint32(l.MinTTL/time.Second), uint32(l.MaxTTL/time.Second)
	if e.Kind != wire.Positive {
		low, high = 0, uint32(life/time.Second)
	}
	for i := range e.ttls {
		e.ttls[i].TTL = min(max(e.ttls[i].TTL, low), high)
	}
}

// fail gives the entry of a failure its life: longer with each one that follows on the last without an answer
// in between (RFC 9520, section 3.2). old is what the table has for the key, or nil.
func (e *Entry) fail(old *Entry, now int64, cfg *Config) {
	e.fails = 1
	// Long after, or after an outage that ended, it is a new trouble.
	if old != nil && old.fails > 0 && old.Epoch >= e.Epoch && now-old.Refresh <= int64(cfg.FailureMaxTTL) {
		e.fails += min(old.fails, 30)
	}
	life := cfg.FailureMaxTTL
	if shift := e.fails - 1; shift < 9 { // 1 s << 9 is beyond the five minutes that are allowed
		life = min(life, cfg.FailureTTL<<shift)
	}
	e.Expires = now + int64(life)
	e.StaleUntil = e.Expires
	e.Refresh = e.Expires
}

// failed returns a copy of e, which shares its bytes, that knows of a failure to refresh it.
func (e *Entry) failed(failure *Entry) *Entry {
	n := &Entry{
		buf: e.buf, ttls: e.ttls, few: e.few,
		Stored: e.Stored, Expires: e.Expires, StaleUntil: e.StaleUntil, Refresh: failure.Refresh,
		Epoch: failure.Epoch, hash: e.hash, keyLen: e.keyLen,
		flags: e.flags, an: e.an, ns: e.ns, ar: e.ar, rcode: e.rcode, ede: e.ede,
		Kind: e.Kind, fails: failure.fails,
	}
	if len(e.ttls) <= len(e.few) {
		n.ttls = n.few[:len(e.ttls)] // else e would live as long as n
	}
	n.state.Store(e.state.Load() &^ claimed)
	return n
}

// bytes is the memory that e takes, no less than what the allocator does.
func (e *Entry) bytes() int64 {
	n := entryBytes + int64(cap(e.buf))
	if len(e.ttls) > len(e.few) {
		n += int64(cap(e.ttls)) * ttlBytes
	}
	return n
}
