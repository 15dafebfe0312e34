package resolver

import (
	"fmt"
	"runtime/debug"

	"github.com/dnslet/dnslet/cache"
	"github.com/dnslet/dnslet/wire"
)

// This file is the life of a cache hit. A reader (udp_linux.go) or a connection
// (tcp.go) calls answer with the bytes of one request; what comes back is the
// reply, built in the same buffer behind the client's own ID and question, so
// that nothing is copied but the stored tail.
//
// On this way nothing allocates, locks, logs, or reads a clock: now is the time
// of the batch. answer_test.go pins that.

// desk is where one reader, or one connection at work, answers questions one
// after the other. It belongs to one goroutine at a time.
type desk struct {
	query wire.Query
	reply wire.Reply
	// stale is what the cache has for a question that must go upstream, for the
	// case that no answer comes in time; nil for nothing.
	stale  *cache.Entry
	counts *counters
	// outcome and rcode of the reply that was built last.
	outcome Outcome
	rcode   wire.RCode
	turn    uint32 // rotates the addresses of successive replies
	// keepalive is what TCP clients that ask for it are told, in 100 ms.
	keepalive uint16
}

// answer turns the request in pkt, received at now, into a reply in pkt's own
// buffer, whose capacity must hold it. It returns nil and true when upstream
// must be asked (see askFor, which needs the desk as answer left it), nil and
// false when the packet deserves no reply.
func (s *Server) answer(d *desk, pkt []byte, t Transport, now int64) (reply []byte, ask bool) {
	q := &d.query
	if v := q.Parse(pkt); v != wire.Accept {
		return d.reject(pkt, v, t), false
	}
	d.stale = nil
	if zones := s.zones.Load(); len(zones.hosts) > 0 {
		if h := zones.host(q); h != nil {
			d.reply = *h
			return d.send(pkt, t, Static), false
		}
	}
	if q.Cacheable() {
		if e := s.cache.Get(q.Key(), now); e != nil {
			switch e.State(now) {
			case cache.Fresh:
				return d.fromEntry(pkt, e, t, now, Hit), false
			case cache.Prefetch:
				reply = d.fromEntry(pkt, e, t, now, Hit)
				s.prefetch(q, now)
				return reply, false
			case cache.Failed:
				if e.Epoch >= s.epoch(q) {
					return d.fromFailure(pkt, e, t, now), false
				}
			case cache.Held:
				if e.Epoch >= s.epoch(q) {
					return d.fromEntry(pkt, e, t, now, Stale), false
				}
				d.stale = e
			case cache.Stale:
				d.stale = e
			}
		}
	}
	if r := local(q); r != nil {
		d.reply = *r
		return d.send(pkt, t, Local), false
	}
	return nil, true
}

// fromEntry replies with e.
func (d *desk) fromEntry(pkt []byte, e *cache.Entry, t Transport, now int64, o Outcome) []byte {
	e.Fill(&d.reply, now)
	d.counts.kinds[e.Kind&(numKinds-1)].Add(1)
	return d.send(pkt, t, o)
}

// fromFailure replies with a failure that is remembered, and says that it is
// (RFC 8914 section 4.14).
func (d *desk) fromFailure(pkt []byte, e *cache.Entry, t Transport, now int64) []byte {
	e.Fill(&d.reply, now)
	d.reply.EDE = wire.EDECachedError
	d.counts.kinds[e.Kind&(numKinds-1)].Add(1)
	return d.send(pkt, t, Hit)
}

// send builds the desk's reply over the request in pkt. Only a TCP reply that
// pkt has no room for, many KiB of it, gets a buffer of its own.
func (d *desk) send(pkt []byte, t Transport, o Outcome) []byte {
	r := &d.reply
	d.turn++
	r.Rotate = d.turn
	d.count(t, o, r.RCode)
	if t == UDP {
		r.Keepalive = 0 // RFC 7828 section 3.2.2
		return d.query.AppendReply(pkt, r, d.query.UDPLimit())
	}
	r.Keepalive = d.keepalive
	if need := len(pkt) + len(r.Tail) + optRoom; need > cap(pkt) {
		pkt = append(make([]byte, 0, need), pkt...)
	}
	return d.query.AppendReply(pkt, r, wire.MaxMsg)
}

// optRoom is the most that the OPT of a reply takes: its fixed part, an extended
// error, a keepalive.
const optRoom = 11 + 6 + 6

// count notes what became of a question.
func (d *desk) count(t Transport, o Outcome, rc wire.RCode) {
	d.outcome, d.rcode = o, rc
	d.counts.outcomes[t][o].Add(1)
	d.counts.rcodes[min(rc, numRCodes-1)].Add(1)
}

// fail replies with an error code instead of an answer.
func (d *desk) fail(pkt []byte, rc wire.RCode, ede wire.EDE, t Transport, o Outcome) []byte {
	d.count(t, o, rc)
	return d.query.AppendError(pkt, rc, ede)
}

// reject replies to what is not a question we take, or drops what must not be
// replied to.
func (d *desk) reject(pkt []byte, v wire.Verdict, t Transport) []byte {
	d.counts.verdicts[v&15].Add(1)
	if v == wire.Drop {
		d.counts.outcomes[t][Dropped].Add(1)
		return nil
	}
	return d.fail(pkt, v.RCode(), wire.EDENone, t, Rejected)
}

// oversized replies to a request of which pkt is only the beginning.
func (d *desk) oversized(pkt []byte, t Transport) []byte {
	v := d.query.Parse(pkt)
	if v != wire.Drop {
		v = wire.FormErr
	}
	return d.reject(pkt, v, t)
}

// panicked replies SERVFAIL to the request that a fault of ours met, and says
// so in the log: the one thing on this path that may.
func (d *desk) panicked(pkt []byte, t Transport, cause any, s *Server) []byte {
	s.log.Error("panic while answering a request", "panic", fmt.Sprint(cause), "stack", string(debug.Stack()))
	if d.query.Parse(pkt) == wire.Drop {
		d.counts.outcomes[t][Panicked].Add(1)
		return nil
	}
	return d.fail(pkt, wire.RCodeServFail, wire.EDENone, t, Panicked)
}

// epoch returns the epoch of the upstream for the question: what failed before
// an outage ended must be asked again.
func (s *Server) epoch(q *wire.Query) uint64 {
	return s.zones.Load().match(wire.KeyName(q.Key())).upstream.Epoch()
}
