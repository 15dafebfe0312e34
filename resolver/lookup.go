package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/dnslet/dnslet/wire"
)

// LookupResult is the answer to a Lookup.
type LookupResult struct {
	Message []byte // the whole reply, ID 0, as a TCP client would get it
	RCode   wire.RCode
	Outcome Outcome
	Elapsed time.Duration
}

// Lookup answers one question as a client's would be answered: from the cache,
// or by an upstream, within the same limits and with the same effects on the
// cache. name is in presentation form. It fails when name is no name, the
// server does not run, or ctx ends; SERVFAIL is a result.
func (s *Server) Lookup(ctx context.Context, name string, t wire.Type) (LookupResult, error) {
	wireName, err := wire.AppendName(nil, name)
	if err != nil {
		return LookupResult{}, fmt.Errorf("cannot look up %q: %w", name, err)
	}
	s.mu.Lock()
	state := s.state
	if state == lifeRunning {
		s.work.Add(1)
	}
	s.mu.Unlock()
	switch {
	case state < lifeRunning:
		return LookupResult{}, errNotRunning
	case state > lifeRunning:
		return LookupResult{}, ErrClosed
	}
	defer s.work.Done()

	start := s.clock()
	s.stats.shared.queries[Internal].Add(1)
	d := &desk{counts: &s.stats.shared}
	pkt := wire.AppendQuery(make([]byte, 0, maxRequest), wire.FlagRD, wireName, t, wire.ClassIN, false)
	reply, ask := s.answer(d, pkt, Internal, start)
	result := make(chan LookupResult, 1)
	if ask {
		var a *asker
		if a, reply = s.admit(d, pkt, Internal, netip.Addr{}, start); a != nil {
			a.result = result
			s.ask(d, a)
			select {
			case r := <-result:
				r.Elapsed = time.Duration(s.clock() - start)
				return r, nil
			case <-ctx.Done():
				return LookupResult{}, fmt.Errorf("cannot look up %q: %w", name, ctx.Err())
			}
		}
	}
	return LookupResult{Message: reply, RCode: d.rcode, Outcome: d.outcome, Elapsed: time.Duration(s.clock() - start)}, nil
}
