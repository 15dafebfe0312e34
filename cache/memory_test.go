package cache

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"testing"

	"github.com/dnslet/dnslet/wire"
)

// heap returns the bytes in live objects, and in the pages that hold them.
func heap() (objects, pages int64) {
	runtime.GC()
	runtime.GC() // the first may leave some of the sweeping to do
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc), int64(m.HeapInuse)
}

// numbered returns key number i in a buffer that is reused: the heap shall show the cache alone.
func numbered(buf []byte, i int) []byte {
	const digits = "0123456789abcdef"
	buf = append(buf[:0], 16)
	for shift := 60; shift >= 0; shift -= 4 {
		buf = append(buf, digits[uint64(i)>>shift&15])
	}
	buf = append(buf, "\x03svc\x07cluster\x05local\x00"...)
	return append(buf, 0, 1, 0, 1, 1<<2)
}

// The budget is what the cache takes, by the allocator's own count, while a million names come by: negatives as
// search lists make them, and answers of one to many records.
//
// Red when: entryBytes is 128, bytes leaves out the TTLs, or tableBytes is not part of counters.bytes.
func TestBudgetBoundsTheHeap(t *testing.T) {
	floods := map[string]answerSpec{
		"nxdomain": {kind: wire.NXDomain, soa: true, soaTTL: 30},
		"one":      {kind: wire.Positive, ttls: []uint32{30}},
		"three":    {kind: wire.Positive, ttls: []uint32{30, 30, 30}},
		"forty":    {kind: wire.Positive, ttls: make([]uint32, 40)},
		"failure":  {kind: wire.Failure},
	}
	for i := range floods["forty"].ttls {
		floods["forty"].ttls[i] = 30
	}
	for name, spec := range floods {
		t.Run(name, func(t *testing.T) { flood(t, spec) })
	}
}

func flood(t *testing.T, spec answerSpec) {
	const budget = 16 << 20
	a, buf := spec.answer(), make([]byte, 0, wire.MaxKey)
	objects, pages := heap()
	cfg := Default()
	cfg.Bytes = budget
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range floodNames {
		c.Put(numbered(buf, i), a, int64(i), PutOptions{})
		if got := c.Bytes(); got > budget {
			t.Fatalf("after %d names: %d bytes counted, budget %d", i+1, got, budget)
		}
	}
	objectsNow, pagesNow := heap()
	st := c.Snapshot()
	grown, used := objectsNow-objects, pagesNow-pages
	// Pages are logged, not judged: how many are partly filled depends on when the collector came by.
	t.Logf("%d entries, %d bytes counted (%d for tables), heap grew by %d in objects, %d in pages: %.0f bytes per entry",
		st.Entries, st.Bytes, st.TableBytes, grown, used, float64(grown)/float64(st.Entries))

	// Counted is never less than taken. The constant is what tests and runtime allocate meanwhile.
	if grown > st.Bytes+64<<10 {
		t.Errorf("%d bytes of objects, only %d counted", grown, st.Bytes)
	}
	if math.Abs(float64(grown-st.Bytes)) > 0.02*budget {
		t.Errorf("%d bytes of objects, %d counted: the budget is not used", grown, st.Bytes)
	}
	if st.Bytes < budget*9/10 {
		t.Errorf("only %d of %d bytes are used", st.Bytes, budget)
	}
	runtime.KeepAlive(c)
}

// What is removed is not held: not by neighbours in the queue that readers still have, not by copies.
//
// Red when: queue.remove does not clear the links, or failed shares few with the old entry.
func TestAnEntryHoldsNoOther(t *testing.T) {
	c, err := New(Default())
	if err != nil {
		t.Fatal(err)
	}
	a := answerSpec{kind: wire.Positive, ttls: []uint32{30}, size: 16000}.answer()
	var key []byte
	before, _ := heap()
	var held []*Entry
	for i := range 1000 {
		key = numbered(key, i)
		e := c.Put(key, a, 0, PutOptions{})
		if i%100 == 50 {
			held = append(held, e)
		}
	}
	c.Flush(nil)
	after, _ := heap()
	if grown := after - before; grown > 400<<10 {
		t.Errorf("10 entries of 16 KB hold %d bytes", grown)
	}
	runtime.KeepAlive(held)

	key = numbered(key, 0)
	old := c.Put(key, a, 0, PutOptions{})
	freed := make(chan struct{})
	runtime.AddCleanup(old, func(int) { close(freed) }, 0)
	failed := c.Put(key, answerSpec{kind: wire.Failure}.answer(), 1, PutOptions{})
	if failed == old {
		t.Fatal("the failure was not noted in a new entry")
	}
	old = nil
	for range 10 {
		runtime.GC()
		select {
		case <-freed:
			runtime.KeepAlive(failed)
			return
		default:
			runtime.Gosched()
		}
	}
	t.Error("the entry that was replaced lives on in its copy")
	runtime.KeepAlive(failed)
}

// A hit, a miss and what follows a hit allocate nothing.
//
// Red when: Get builds a string of the key, or Fill copies the TTLs.
func TestHitsAllocateNothing(t *testing.T) {
	c, err := New(Default())
	if err != nil {
		t.Fatal(err)
	}
	key, other := numbered(nil, 1), numbered(nil, 2)
	c.Put(key, answerSpec{kind: wire.Positive, ttls: []uint32{30, 30, 30}}.answer(), 0, PutOptions{})
	var r wire.Reply
	now := int64(0)
	if n := testing.AllocsPerRun(1000, func() {
		now += 1e7 // through the whole life: fresh, prefetch
		e := c.Get(key, now)
		if e.State(now) != Gone {
			e.Fill(&r, now)
		}
		if c.Get(other, now) != nil {
			panic("found what was never stored")
		}
	}); n != 0 {
		t.Errorf("%v allocations per hit and miss", n)
	}
}

// An answer that came over the wire goes out as it came: the request's own bytes, the tail, TTLs aged.
//
// Red when: Fill leaves keyLen out of r.Tail.
func TestReplyIsRequestPlusTail(t *testing.T) {
	name, _ := wire.AppendName(nil, "wWw.Example.")
	request := wire.AppendQuery(nil, wire.FlagRD, name, wire.TypeA, wire.ClassIN, false)
	wire.SetMsgID(request, 0xbeef)
	var q wire.Query
	if v := q.Parse(request); v != wire.Accept {
		t.Fatal(v)
	}
	response := append([]byte(nil), request[:q.End]...)
	binary.BigEndian.PutUint16(response[2:], wire.FlagQR|wire.FlagRD|wire.FlagRA)
	binary.BigEndian.PutUint16(response[6:], 1)  // ANCOUNT
	binary.BigEndian.PutUint16(response[10:], 0) // ARCOUNT
	response = append(response, 0xc0, wire.HeaderLen, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 1)
	var a wire.Answer
	if err := a.Parse(response, wire.Question(request)); err != nil {
		t.Fatal(err)
	}
	c, err := New(Default())
	if err != nil {
		t.Fatal(err)
	}
	if c.Put(q.Key(), &a, 0, PutOptions{}) == nil {
		t.Fatal("not kept")
	}
	clear(response) // the entry has bytes of its own

	const now = 100e9
	var r wire.Reply
	c.Get(q.Key(), now).Fill(&r, now)
	buf := append(make([]byte, 0, wire.MaxUDP), request...)
	got := q.AppendReply(buf, &r, wire.MaxUDP)
	want := string(request[:2]) + "\x81\x80\x00\x01\x00\x01\x00\x00\x00\x01" + string(request[wire.HeaderLen:q.End]) +
		"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\xc8\x00\x04\xc0\x00\x02\x01" + "\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"
	if string(got) != want {
		t.Errorf("reply\n%x, want\n%x", got, want)
	}
	if fmt.Sprintf("%x", c.Get(q.Key(), now).Key()) != fmt.Sprintf("%x", q.Key()) {
		t.Error("the entry's key is not the question's")
	}
}
