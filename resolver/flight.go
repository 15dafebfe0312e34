package resolver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/dnslet/dnslet/cache"
	"github.com/dnslet/dnslet/upstream"
	"github.com/dnslet/dnslet/wire"
)

// What happens when the cache has no answer. An asker is one client that waits;
// a flight is one upstream question, for all askers of the same key. The flight
// is a goroutine; an asker is 0.7 KiB and no goroutine.

const (
	// maxRequest is the longest request that is read, by UDP and TCP. Only EDNS
	// options make a request longer than 300 bytes.
	maxRequest = 4096
	// inlineRequest is what an asker keeps of a request without another
	// allocation: question, OPT, cookie, and padding to RFC 8467's 128 or 256.
	inlineRequest = 512
	// staleAfter is how long a client waits for a fresh answer when every endpoint
	// is held for dead and a stale answer is at hand. One might be back: a round
	// trip within a cluster takes a few ms, and 150 ms nobody notices.
	staleAfter = 150 * time.Millisecond
)

// asker is a client waiting for a flight. It is owned by whoever called admit,
// then by the flight it joined, until deliver returns it to the pool.
type asker struct {
	next  *asker
	src   netip.Addr // whose share it counts in
	start int64      // when the request was received
	kind  Transport

	sock   *udpSocket // UDP: where the reply goes out,
	to     rawAddr    // and to whom
	conn   *tcpConn   // TCP
	result chan LookupResult

	n      int
	inline [inlineRequest]byte
	long   []byte // instead of inline for longer requests
}

var askers = sync.Pool{New: func() any { return new(asker) }}

// request returns the request bytes as they came.
func (a *asker) request() []byte {
	if a.long != nil {
		return a.long
	}
	return a.inline[:a.n]
}

// admit takes the request in pkt, which d has just parsed, in among those that
// may wait for upstream. It returns nil and the reply that says no when the
// limits forbid that. Who gets an asker fills in where the reply goes and calls
// ask.
func (s *Server) admit(d *desk, pkt []byte, t Transport, src netip.Addr, now int64) (*asker, []byte) {
	switch s.limits.takeAsker(src) {
	case refusedFull:
		d.counts.event(ShedFull)
		return nil, d.shed(pkt, t, now)
	case refusedShare:
		d.counts.event(ShedShare)
		return nil, d.shed(pkt, t, now)
	}
	a := askers.Get().(*asker)
	a.src, a.start, a.kind = src, now, t
	if a.n = len(pkt); a.n <= inlineRequest {
		copy(a.inline[:], pkt)
	} else {
		a.long = append([]byte(nil), pkt...)
	}
	return a, nil
}

// shed answers at once what cannot wait: with what has expired, if there is
// anything, else SERVFAIL. Silence would cost the client its whole timeout.
func (d *desk) shed(pkt []byte, t Transport, now int64) []byte {
	if d.stale != nil {
		return d.fromEntry(pkt, d.stale, t, now, Stale)
	}
	return d.fail(pkt, wire.RCodeServFail, wire.EDENetworkError, t, Shed)
}

// flight is one upstream question. Its shard's mutex guards what changes.
type flight struct {
	key   string
	start int64
	route *route
	epoch uint64       // of the upstream, before it was asked
	stale *cache.Entry // what may be served if no answer comes; may be nil

	background bool   // a prefetch: it holds a place among the askers itself
	askers     *asker // in any order: all are answered at the same moment
	standIn    bool   // stale has been served; who joins from now on gets it at once
}

// flightTable finds the flight for a key. Shards keep the readers' misses from
// waiting for each other.
type flightTable struct {
	seed   maphash.Seed
	shards [16]flightShard
}

type flightShard struct {
	mu sync.Mutex
	m  map[string]*flight
	_  [48]byte
}

func (t *flightTable) init() {
	t.seed = maphash.MakeSeed()
	for i := range t.shards {
		t.shards[i].m = make(map[string]*flight)
	}
}

func (t *flightTable) shard(key []byte) *flightShard {
	return &t.shards[maphash.Bytes(t.seed, key)%uint64(len(t.shards))]
}

// ask makes a wait for the flight of the question that d has parsed, and starts
// the flight if there is none. a belongs to the flight from now on.
func (s *Server) ask(d *desk, a *asker) {
	owned := false
	defer func() {
		if !owned { // a panic: the reader answers it, and the place is free again
			s.release(a)
		}
	}()
	stale := s.join(d, a)
	owned = true
	if stale != nil {
		s.deliverAlone(a, stale, Stale)
	}
}

// join adds a to its flight, or returns the stale entry that it gets at once
// because the others have it already.
func (s *Server) join(d *desk, a *asker) (stale *cache.Entry) {
	key := d.query.Key()
	sh := s.table.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f := sh.m[string(key)]
	if f == nil || s.moved(f, key) { // who asks after a reload does not get what those before it wait for
		f = s.newFlight(key, a.start, d.stale)
		f.askers = a
		sh.m[f.key] = f
		s.launch(f)
		return nil
	}
	d.counts.event(FlightJoined)
	if f.standIn {
		return f.stale
	}
	a.next, f.askers = f.askers, a
	return nil
}

// prefetch asks upstream anew for the question in q, whose entry is about to
// expire, unless that is being done or nothing is free for it.
func (s *Server) prefetch(q *wire.Query, now int64) {
	var nobody netip.Addr
	if s.limits.takeAsker(nobody) != admitted {
		return
	}
	flying := false
	defer func() {
		if !flying {
			s.limits.askers.give(nobody)
		}
	}()
	key := q.Key()
	sh := s.table.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.m[string(key)] != nil {
		return
	}
	f := s.newFlight(key, now, nil)
	f.background = true
	sh.m[f.key] = f
	s.stats.shared.event(Prefetched)
	s.launch(f)
	flying = true
}

func (s *Server) newFlight(key []byte, now int64, stale *cache.Entry) *flight {
	r := s.zones.Load().match(wire.KeyName(key))
	return &flight{key: string(key), start: now, route: r, epoch: r.upstream.Epoch(), stale: stale}
}

// moved reports whether the question of f, whose key is given, leads elsewhere
// by now: the zones have been changed since f began.
func (s *Server) moved(f *flight, key []byte) bool {
	return s.zones.Load().match(wire.KeyName(key)).differs(f.route)
}

// launch starts the goroutine of f. The caller is itself counted in s.work.
func (s *Server) launch(f *flight) {
	s.stats.shared.event(FlightStarted)
	s.stats.flights.Add(1)
	s.work.Add(1)
	go s.fly(f)
}

// bench is what one flight works with, pooled.
type bench struct {
	desk   desk
	answer wire.Answer
	key    [wire.MaxKey]byte
	query  [wire.HeaderLen + wire.MaxName + 4 + 16]byte
	buf    [maxRequest]byte // the response, then the replies made from it
}

var benches = sync.Pool{New: func() any { return new(bench) }}

// fly asks upstream and answers everybody who waits for it.
func (s *Server) fly(f *flight) {
	defer s.work.Done()
	defer s.stats.flights.Add(-1)
	b := benches.Get().(*bench)
	defer benches.Put(b)
	b.desk.counts = &s.stats.shared

	if f.stale != nil && !f.route.upstream.Healthy() {
		s.work.Add(1)
		t := time.AfterFunc(staleAfter, func() {
			defer s.work.Done()
			s.serveStale(f)
		})
		defer func() {
			if t.Stop() {
				s.work.Done()
			}
		}()
	}
	entry, outcome := s.exchange(f, b)
	s.land(f, b, entry, outcome)
}

// exchange asks upstream and returns the entry that answers f's askers. It never
// returns nil and never panics.
func (s *Server) exchange(f *flight, b *bench) (e *cache.Entry, o Outcome) {
	key := append(b.key[:0], f.key...)
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic while asking upstream", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			b.answer = wire.Answer{Kind: wire.Failure, RCode: wire.RCodeServFail}
			e, o = s.cache.NewEntry(key, &b.answer, s.clock(), cache.PutOptions{}), Panicked
		}
	}()
	wait := clientWait - time.Duration(s.clock()-f.start)
	ctx, cancel := context.WithTimeout(s.base, wait)
	defer cancel()
	query := wire.AppendUpstream(b.query[:0], key)
	resp, _, err := f.route.upstream.Exchange(ctx, query, b.buf[:])
	if err == nil {
		if err = b.answer.Parse(resp, wire.Question(query)); err != nil {
			s.stats.shared.event(UpstreamGarbage)
		}
	}
	return s.settle(f, key, b, err)
}

// settle turns what b.answer holds, or err, into an entry, and keeps it where
// that is right.
func (s *Server) settle(f *flight, key []byte, b *bench, err error) (*cache.Entry, Outcome) {
	now := s.clock()
	o := cache.PutOptions{Lifetimes: &f.route.lifetimes, Epoch: f.epoch}
	if err != nil {
		b.answer = wire.Answer{Kind: wire.Failure, RCode: wire.RCodeServFail, EDE: failureEDE(err), TTLs: b.answer.TTLs[:0]}
		if errors.Is(err, upstream.ErrOverloaded) || s.base.Err() != nil || now-f.start > int64(pulseGap) {
			// Our trouble, not upstream's: nothing to remember. The last one is a
			// process that was stopped meanwhile: the answer may have been there.
			return s.orStale(f, s.cache.NewEntry(key, &b.answer, now, o), Shed, now)
		}
	}
	failed := b.answer.Kind == wire.Failure
	e := s.keep(f, key, &b.answer, o)
	switch {
	case e == nil:
		e = s.cache.NewEntry(key, &b.answer, now, o)
	case failed && e.Kind != wire.Failure:
		if now < e.Expires {
			return e, Hit // refreshed early and in vain: it is still good
		}
		return e, Stale
	}
	switch {
	case err != nil:
		return s.orStale(f, e, Failed, now)
	case failed:
		return s.orStale(f, e, Miss, now)
	}
	return e, Miss
}

// keep puts a into the cache, unless the zones have changed since f began: then
// it is from where the name does not lead any more.
func (s *Server) keep(f *flight, key []byte, a *wire.Answer, o cache.PutOptions) *cache.Entry {
	if s.moved(f, key) {
		return nil
	}
	e := s.cache.Put(key, a, s.clock(), o)
	if s.moved(f, key) {
		// They changed just now, and their flush may have passed by before a was in.
		s.cache.Flush(func(name []byte) bool { return bytes.Equal(name, wire.KeyName(key)) })
	}
	return e
}

// orStale prefers what f found expired to the failure e.
func (s *Server) orStale(f *flight, e *cache.Entry, o Outcome, now int64) (*cache.Entry, Outcome) {
	if f.stale != nil && now < f.stale.StaleUntil {
		return f.stale, Stale
	}
	return e, o
}

// failureEDE is the extended error that says why nothing came (RFC 8914).
func failureEDE(err error) wire.EDE {
	switch {
	case errors.Is(err, upstream.ErrTimeout), errors.Is(err, upstream.ErrNoEndpoint), errors.Is(err, context.DeadlineExceeded):
		return wire.EDENoReachableAuthority
	}
	return wire.EDENetworkError
}

// land ends f and answers everybody who waits for it.
func (s *Server) land(f *flight, b *bench, e *cache.Entry, o Outcome) {
	sh := s.table.shard(append(b.key[:0], f.key...))
	sh.mu.Lock()
	if sh.m[f.key] == f { // else another has taken its place, see join
		delete(sh.m, f.key)
	}
	waiting := f.askers
	f.askers = nil
	sh.mu.Unlock()
	if f.background {
		s.limits.askers.give(netip.Addr{})
	}
	s.deliverAll(b, waiting, e, o)
}

// serveStale answers those who wait for f with what has expired. f goes on, for
// the cache's sake.
func (s *Server) serveStale(f *flight) {
	b := benches.Get().(*bench)
	defer benches.Put(b)
	b.desk.counts = &s.stats.shared
	sh := s.table.shard(append(b.key[:0], f.key...))
	sh.mu.Lock()
	waiting := f.askers
	f.askers, f.standIn = nil, true
	sh.mu.Unlock()
	s.deliverAll(b, waiting, f.stale, Stale)
}

func (s *Server) deliverAlone(a *asker, e *cache.Entry, o Outcome) {
	b := benches.Get().(*bench)
	defer benches.Put(b)
	b.desk.counts = &s.stats.shared
	s.deliverAll(b, a, e, o)
}

// deliverAll answers every asker in the list a with e, each from its own
// request, so that ID, case, EDNS and size are its own.
func (s *Server) deliverAll(b *bench, a *asker, e *cache.Entry, o Outcome) {
	now := s.clock()
	for a != nil {
		next := a.next
		s.deliver(b, a, e, o, now)
		a = next
	}
}

// deliver answers a and gives it back. A fault met on the way costs a its
// answer and nobody else anything.
func (s *Server) deliver(b *bench, a *asker, e *cache.Entry, o Outcome, now int64) {
	defer s.release(a)
	pkt := append(b.buf[:0], a.request()...)
	defer func() {
		if p := recover(); p != nil {
			a.send(b.desk.panicked(pkt, a.kind, p, s), &b.desk)
		}
	}()
	b.desk.keepalive = s.keepalive()
	if b.desk.query.Parse(pkt) != wire.Accept {
		panic("a request that was accepted is no longer acceptable")
	}
	reply := b.desk.fromEntry(pkt, e, a.kind, now, o)
	s.stats.misses.add(time.Duration(now - a.start))
	a.send(reply, &b.desk)
}

// send hands msg, which it does not keep, to the client.
func (a *asker) send(msg []byte, d *desk) {
	switch {
	case len(msg) == 0:
	case a.sock != nil:
		a.sock.reply(&a.to, msg, d.counts)
	case a.conn != nil:
		a.conn.reply(msg)
	default:
		a.result <- LookupResult{Message: append([]byte(nil), msg...), RCode: d.rcode, Outcome: d.outcome}
	}
}

// release returns what a holds.
func (s *Server) release(a *asker) {
	s.limits.askers.give(a.src)
	if a.conn != nil {
		a.conn.answered()
	}
	a.next, a.sock, a.conn, a.result, a.long = nil, nil, nil, nil, nil
	askers.Put(a)
}
