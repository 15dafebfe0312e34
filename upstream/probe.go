package upstream

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/dnslet/dnslet/wire"
)

// Which question tells the living from the dead? Any RCODE is life, silence is death, so it must be one that a live
// server does not have to wait for. CoreDNS answers nothing from its own knowledge but its cluster zone, which is not known here,
// and what it forwards it answers only when its own upstream does. So probes take turns: a question that a client asked
// and that was answered fast lately (in the cluster zone or in CoreDNS's cache, most likely), and the root's NS, which
// every resolver has or gets. One question that a server cannot answer does not keep it dead that way.

// rootNS asks for ". NS": RD set, one question, no EDNS.
var rootNS = [...]byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, byte(wire.TypeNS), 0, byte(wire.ClassIN)}

// goodEvery is how often the question is replaced that probes repeat.
const goodEvery = int64(time.Second)

// Run asks every endpoint once, so that the first answer does not wait for the first client, then probes what is suspected
// or held for dead until ctx ends, and closes the group. While all are well it sleeps.
func (g *Group) Run(ctx context.Context) error {
	defer g.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.done:
			return nil
		case <-g.kick:
		case <-timer.C:
		}
		if g.probe() {
			timer.Reset(g.cfg.ProbeEvery)
		}
	}
}

// probe asks all that need it and reports whether anybody still will.
func (g *Group) probe() (again bool) {
	for _, e := range g.everyone() {
		if e.lastResort && g.Healthy() {
			continue // it costs a conntrack entry each time
		}
		now := g.now()
		due, pending, ch := e.probeDue(now, g.cfg.ProbeEvery)
		g.moved(e, ch)
		again = again || pending
		if !due {
			continue
		}
		g.stats.Probes.Add(1)
		query := g.probeQuery(e.probes)
		e.probes++
		a := &attempt{ep: e, question: wire.Question(query), purpose: forHealth}
		if err := g.send(a, query); err != nil {
			g.failed(a, fmt.Errorf("cannot probe %v: %w", e, err))
			continue
		}
		g.udp.linger(a)
	}
	return again
}

// probeQuery returns the question of an endpoint's turn, in memory of its own.
func (g *Group) probeQuery(turn int) []byte {
	if q := g.goodProbe.Load(); q != nil && turn%2 == 0 {
		return append(append(make([]byte, 0, wire.HeaderLen+len(*q)), rootNS[:wire.HeaderLen]...), *q...)
	}
	return append([]byte(nil), rootNS[:]...)
}

// rememberGood keeps a's question for probes if it was answered no slower than usual.
func (g *Group) rememberGood(a *attempt, now int64) {
	last := g.goodAt.Load()
	if last != 0 && now-last < goodEvery || a.rtt > a.ep.ewma.Load() || !g.goodAt.CompareAndSwap(last, now) {
		return
	}
	q := append([]byte(nil), a.question...)
	g.goodProbe.Store(&q)
}

// drawID gives a an unpredictable ID (RFC 5452 section 9.2).
func drawID(a *attempt) error {
	var b [2]byte
	if _, err := rand.Read(b[:]); err != nil {
		return fmt.Errorf("cannot draw an ID: %w", err)
	}
	a.id = binary.BigEndian.Uint16(b[:])
	return nil
}
