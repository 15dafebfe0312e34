package cache

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dnslet/dnslet/wire"
)

// entryWith makes an entry with a hash of the test's choice.
func entryWith(hash uint32, i int) *Entry {
	key := numbered(nil, i)
	return &Entry{buf: key, keyLen: uint16(len(key)), hash: hash}
}

// Buckets that overflow, with hashes that all collide: everything is found, each removal leaves the rest in
// place, and nothing is left behind.
//
// Red when: insert or remove do not keep the counts, find stops at the first bucket or compares hashes only.
func TestTableOverflow(t *testing.T) {
	tb := newTable(2 * maxProbe)
	var in []*Entry
	for i := 0; ; i++ {
		e := entryWith(2*maxProbe-2, i) // home near the end: the probe wraps around
		if !tb.insert(e) {
			break
		}
		in = append(in, e)
	}
	if len(in) != slots*maxProbe {
		t.Fatalf("%d entries found a place, want %d", len(in), slots*maxProbe)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for len(in) > 0 {
		for _, e := range in {
			if tb.find(e.hash, e.Key()) != e {
				t.Fatalf("with %d entries: one is not found", len(in))
			}
		}
		i := r.IntN(len(in))
		tb.remove(in[i])
		if tb.find(in[i].hash, in[i].Key()) != nil {
			t.Fatal("found what was removed")
		}
		in[i] = in[len(in)-1]
		in = in[:len(in)-1]
	}
	for i := range tb.buckets {
		if tags := tb.buckets[i].tags.Load(); tags != 0 {
			t.Errorf("bucket %d: %016x in an empty table", i, tags)
		}
	}
}

// Tables grow with what is in them, and find all of it.
//
// Red when: copy leaves a slot out, or maxProbe is 2.
func TestTableGrows(t *testing.T) {
	cfg := Default()
	cfg.Bytes = 64 << 20
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	a := answerSpec{kind: wire.NXDomain, soa: true, soaTTL: 30}.answer()
	const n = 100_000
	var key []byte
	for i := range n {
		key = numbered(key, i)
		c.Put(key, a, 0, PutOptions{})
	}
	for i := range n {
		key = numbered(key, i)
		if c.Get(key, 0) == nil {
			t.Fatalf("name %d of %d is not found", i, n)
		}
	}
	places := 0
	for i := range c.tables {
		places += slots * len(c.tables[i].Load().buckets)
	}
	// Twice the least on average, since they double; not four times, as if they doubled when half full.
	if places < n*4/3 || places > n*27/10 {
		t.Errorf("%d places for %d entries", places, n)
	}
}

// Names that stay in the cache are found by every lookup, while they are replaced, while their tables double
// and while other names come and go around them. This is what the rules of memory ordering in table.go promise.
//
// Red when: replace removes and inserts, grow publishes the table before it is filled, or insert adds to the
// counts after it stored the entry and another is removed in between.
func TestWhatStaysIsAlwaysFound(t *testing.T) {
	cfg := Default()
	cfg.Bytes = 256 << 20
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	a := answerSpec{kind: wire.Positive, ttls: []uint32{300}}.answer()
	const stay = 500
	for i := range stay {
		c.Put(numbered(nil, i), a, 0, PutOptions{})
	}
	var (
		stop, failed atomic.Bool
		lookups      atomic.Int64
		readers      sync.WaitGroup
	)
	for seed := range uint64(3) {
		readers.Go(func() {
			r, key := rand.New(rand.NewPCG(seed, 2)), []byte(nil)
			for n := int64(1); !stop.Load(); n++ {
				i := r.IntN(stay)
				key = numbered(key, i)
				if e := c.Get(key, 0); e == nil || string(e.Key()) != string(key) {
					failed.Store(true)
					stop.Store(true)
				}
				if n%1024 == 0 {
					lookups.Add(1024)
					runtime.Gosched()
				}
			}
		})
	}
	key := []byte(nil)
	for i := 0; (i < 50_000 || lookups.Load() < 50_000) && !stop.Load(); i++ {
		key = numbered(key, i%stay)
		c.Put(key, a, 0, PutOptions{})
		key = numbered(key, stay+i)
		c.Put(key, a, 0, PutOptions{})
		if i%3 > 0 {
			c.mu.Lock()
			c.remove(c.tables[c.hashOf(key)>>shardShift].Load().find(c.hashOf(key), key))
			c.mu.Unlock()
		}
	}
	stop.Store(true)
	readers.Wait()
	if failed.Load() {
		t.Error("a lookup missed a name that was there all the time")
	}
}

// Readers and writers of all kinds at once, in a cache so small that everything moves: whoever finds a name
// finds its own answer, and the books balance in the end.
//
// Red when: find compares tags only, or remove clears the slot of another entry.
func TestConcurrentUse(t *testing.T) {
	cfg := Default()
	cfg.Bytes = 128 << 10
	cfg.PrefetchHits = 1
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	const names, rounds = 2000, 20_000
	var clock atomic.Int64
	var all sync.WaitGroup
	for seed := range uint64(2) {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, 3))
			for range rounds {
				i := r.IntN(names)
				spec := answerSpec{kind: wire.Positive, ttls: []uint32{uint32(i), 300}}
				if r.IntN(5) == 0 {
					spec = answerSpec{kind: wire.Failure}
				}
				c.Put(numbered(nil, i), spec.answer(), clock.Add(int64(time.Millisecond)), PutOptions{})
				switch r.IntN(2000) {
				case 0:
					c.sweep(clock.Load())
				case 1:
					c.Flush(func(name []byte) bool { return name[16]%2 == 0 })
				}
			}
		})
		all.Go(func() {
			r, key, reply := rand.New(rand.NewPCG(seed, 4)), []byte(nil), wire.Reply{}
			for range 5 * rounds {
				i := r.IntN(names)
				key = numbered(key, i)
				now := clock.Load()
				e := c.Get(key, now)
				if e == nil {
					continue
				}
				e.State(now)
				e.Fill(&reply, now)
				if string(e.Key()) != string(key) || len(reply.TTLs) > 0 && reply.TTLs[0].TTL != uint32(i) {
					t.Errorf("name %d got the answer of %q", i, e.Key())
					return
				}
			}
		})
	}
	all.Wait()
	checkBooks(t, c)
}

// checkBooks compares what is counted with what is there.
func checkBooks(t *testing.T, c *Cache) {
	t.Helper()
	var entries, entryBytes, tableBytes, queued int64
	for i := range c.tables {
		tb := c.tables[i].Load()
		tableBytes += tb.bytes()
		n := 0
		for b := range tb.buckets {
			for e := range tb.buckets[b].entries {
				n++
				entryBytes += e.bytes()
			}
		}
		if n != tb.n {
			t.Errorf("table %d counts %d entries and has %d", i, tb.n, n)
		}
		entries += int64(n)
	}
	for e := c.queue.tail; e != nil; e = e.newer {
		queued++
	}
	if st := c.Snapshot(); st.Entries != entries || queued != entries || st.TableBytes != tableBytes || st.Bytes != entryBytes+tableBytes {
		t.Errorf("%+v, but there are %d entries, %d queued, %d bytes of entries, %d of tables", st, entries, queued, entryBytes, tableBytes)
	}
	if c.Len() != int(entries) {
		t.Errorf("Len is %d, want %d", c.Len(), entries)
	}
}

// Of all readers that find an entry due for a refresh, one gets the duty.
//
// Red when: claim does not look at what Or returned.
func TestPrefetchIsClaimedOnce(t *testing.T) {
	const readers, rounds = 4, 20_000
	entries := make([]Entry, rounds)
	for i := range entries {
		entries[i].Kind, entries[i].Expires = wire.Positive, 100
		entries[i].state.Store(hot)
	}
	claims := make([]atomic.Int32, rounds)
	var round atomic.Int64 // those who are early wait for it: they are to meet at each entry
	var arrived [rounds]atomic.Int32
	var all sync.WaitGroup
	for range readers {
		all.Go(func() {
			for i := range entries {
				if arrived[i].Add(1) == readers {
					round.Store(int64(i) + 1)
				}
				for n := 0; round.Load() <= int64(i); n++ {
					if n > 100 {
						runtime.Gosched()
					}
				}
				if entries[i].State(50) == Prefetch {
					claims[i].Add(1)
				}
			}
		})
	}
	all.Wait()
	for i := range claims {
		if n := claims[i].Load(); n != 1 {
			t.Fatalf("entry %d: claimed by %d readers", i, n)
		}
	}
}
