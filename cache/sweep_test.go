package cache

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnslet/dnslet/wire"
)

// Run gives back what is good for nothing, without being asked, and ends with its context.
//
// Red when: Run calls sweep with 0, or removeAll stops after sweepBuckets.
func TestRunSweeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Default()
		cfg.StaleFor = 0
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		const n = 80_000 // several holds of the lock for each table
		short := answerSpec{kind: wire.NXDomain, soa: true, soaTTL: 10}.answer()
		long := answerSpec{kind: wire.Positive, ttls: []uint32{3600}}.answer()
		var key []byte
		for i := range n {
			key = numbered(key, i)
			c.Put(key, []*wire.Answer{short, long}[i%2], c.Now(), PutOptions{})
		}
		before := c.Bytes()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		time.Sleep(sweepEvery + time.Second) // in the bubble's time
		synctest.Wait()
		if st := c.Snapshot(); st.NXDomain != 0 || st.Positive != n/2 || st.Expired != n/2 || st.Bytes >= before {
			t.Errorf("after a sweep: %+v", st)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A table that doubles while it is flushed is flushed whole: what was there when Flush began is gone.
//
// Red when: removeSome goes on in the new table where it was in the old one.
func TestFlushWhileTablesGrow(t *testing.T) {
	cfg := Default()
	cfg.Bytes = 256 << 20
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	a := answerSpec{kind: wire.NXDomain, soa: true, soaTTL: 10}.answer()
	// Tables of 512 buckets, nearly as full as they get: some entries live in the bucket after their home, and
	// move back when there is room.
	const n = 165_000
	var key []byte
	for i := range n {
		key = numbered(key, i)
		c.Put(key, a, 0, PutOptions{})
	}
	// Between two holds of the lock, the table at hand doubles.
	for shard := range c.tables {
		tb, from := c.tables[shard].Load(), 0
		for step := 0; from < len(tb.buckets); step++ {
			tb, from, _ = c.removeSome(shard, tb, from, func(*Entry) bool { return true })
			if step == 0 {
				c.mu.Lock()
				c.grow(shard, 0)
				c.mu.Unlock()
			}
		}
	}
	if got := c.Len(); got != 0 {
		t.Errorf("%d entries are left", got)
	}
	checkBooks(t, c)
}
