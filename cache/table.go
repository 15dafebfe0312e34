package cache

import (
	"math/bits"
	"slices"
	"sync/atomic"
	"unsafe"
)

// The table is what readers and the one writer share without a lock.
//
// A bucket is one cache line: a word of tags and seven slots. Byte i of the word is the tag, eight bits of the
// hash, of the entry in slot i, or 0 when the slot is empty; the last byte counts the entries that would live
// here or were on their way past here when this bucket was full, and live in one of the next buckets instead.
// A reader loads the word once, follows the slots whose tags match, compares whole keys, and goes on to the
// next bucket only if the count is not 0.
//
// Memory ordering. Go's atomics are sequentially consistent (the Go memory model, "Atomic Values"): all of
// them can be thought of as taking turns. With one writer at a time (Cache.mu) these rules suffice:
//
//  1. An entry is complete before its pointer is stored and never changes after that, but for Entry.state,
//     which is atomic, and the queue links, which only the writer reads.
//  2. insert: counts of the buckets passed, then the slot, then the tag. Who sees the tag finds the entry.
//  3. remove: the tag, then the slot, then the counts. A reader with an old word finds nil, or whatever entry
//     has moved in since; the key decides. It never finds another name's answer.
//  4. replace: one store of the slot; hash and so the tag are the same. A reader sees the one or the other. A
//     key that stays in the table is therefore found by every Get, whatever happens around it: an entry never
//     moves inside a table, and counts of the buckets before it stay above 0 while it lives.
//  5. grow: the new table is filled before its pointer is stored. Writes after that go to the new table alone:
//     a reader that is still in the old one may return what was replaced in that moment, as if it had come a
//     moment earlier.
//
// A Get concurrent with the removal of its key may miss; that costs one question upstream.
type table struct {
	buckets []bucket // a power of two
	mask    uint32
	n       int // entries; the writer's
}

const (
	slots = 7
	// shards is the number of tables. They share queue, budget and writer lock; each grows alone, so that a
	// writer holds the lock for one 64th of what doubling a single table would take.
	shards     = 64
	shardShift = 32 - 6
	tagShift   = shardShift - 8
	// maxProbe bounds how far an entry may live from its home. With 4, one crowded run of buckets made tables
	// double at half their load; with 16 they reach what full allows, and 94 of 100 entries are at home then.
	maxProbe = 16
)

type bucket struct {
	tags atomic.Uint64
	slot [slots]atomic.Pointer[Entry]
}

const (
	everyByte = 0x0101_0101_0101_0101
	slotTops  = 0x0080_8080_8080_8080 // the top bit of each tag byte
	oneMore   = 1 << (8 * slots)      // one in the count byte
)

// A count byte never overflows: at most slots*(maxProbe-1) entries can have passed a bucket.
const _ = uint8(slots * (maxProbe - 1))

func newTable(size int) *table {
	// Grow rounds the capacity up to what the allocator would waste anyway, which makes bytes exact.
	b := slices.Grow([]bucket(nil), size)[:size]
	return &table{buckets: b, mask: uint32(size - 1)}
}

// bytes is the memory the table takes.
func (t *table) bytes() int64 {
	const header = 64 // struct table, rounded up to a size class
	// A slice whose elements hold pointers has up to 8 bytes in front of it that its capacity does not show.
	return header + 8 + int64(cap(t.buckets))*int64(unsafe.Sizeof(bucket{}))
}

// full reports that one more entry would fill more than three quarters of the slots. Beyond that, entries
// stray further from home at each insert.
func (t *table) full() bool { return 4*(t.n+1) > 3*slots*len(t.buckets) }

// tag is never 0: that is an empty slot.
func tag(hash uint32) uint64 { return max(1, uint64(hash>>tagShift)&0xff) }

func (t *table) find(hash uint32, key []byte) *Entry {
	pattern := tag(hash) * everyByte
	for i := uint32(0); i < maxProbe; i++ {
		b := &t.buckets[(hash+i)&t.mask]
		word := b.tags.Load()
		// Zero bytes of diff are matches. The borrow may mark a byte above a match as well; the key decides.
		diff := word ^ pattern
		for m := (diff - everyByte) &^ diff & slotTops; m != 0; m &= m - 1 {
			if e := b.slot[bits.TrailingZeros64(m)/8].Load(); e != nil && e.hash == hash && e.sameKey(key) {
				return e
			}
		}
		if word < oneMore {
			return nil
		}
	}
	return nil
}

// insert adds e, whose key must not be in the table, and reports whether there was room.
func (t *table) insert(e *Entry) bool {
	if t.full() {
		return false
	}
	for i := uint32(0); i < maxProbe; i++ {
		b := &t.buckets[(e.hash+i)&t.mask]
		s := b.free()
		if s < 0 {
			continue
		}
		for j := range i {
			t.buckets[(e.hash+j)&t.mask].tags.Add(oneMore)
		}
		b.slot[s].Store(e)
		b.tags.Or(tag(e.hash) << (8 * s))
		t.n++
		return true
	}
	return false
}

// free returns an empty slot, or -1.
func (b *bucket) free() int {
	word := b.tags.Load()
	for s := range slots {
		if word>>(8*s)&0xff == 0 {
			return s
		}
	}
	return -1
}

// locate returns where e is: the bucket's distance from home and the slot.
func (t *table) locate(e *Entry) (dist uint32, s int) {
	for i := uint32(0); i < maxProbe; i++ {
		b := &t.buckets[(e.hash+i)&t.mask]
		for s := range slots {
			if b.slot[s].Load() == e {
				return i, s
			}
		}
	}
	panic("cache: an entry of the queue is not in the table")
}

func (t *table) replace(old, e *Entry) {
	dist, s := t.locate(old)
	t.buckets[(e.hash+dist)&t.mask].slot[s].Store(e)
}

func (t *table) remove(e *Entry) {
	dist, s := t.locate(e)
	b := &t.buckets[(e.hash+dist)&t.mask]
	b.tags.And(^(uint64(0xff) << (8 * s)))
	b.slot[s].Store(nil)
	for j := range dist {
		t.buckets[(e.hash+j)&t.mask].tags.Add(^uint64(oneMore - 1))
	}
	t.n--
}

// copy inserts all entries of old, and reports whether each found a place.
func (t *table) copy(old *table) bool {
	for i := range old.buckets {
		for e := range old.buckets[i].entries {
			if !t.insert(e) {
				return false
			}
		}
	}
	return true
}

// entries yields what the bucket holds.
func (b *bucket) entries(yield func(*Entry) bool) {
	for s := range slots {
		if e := b.slot[s].Load(); e != nil && !yield(e) {
			return
		}
	}
}
