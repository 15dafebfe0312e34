package upstream

import (
	"errors"
	"sync/atomic"
	"syscall"
)

// Stats counts what a group did and met. All only grow.
type Stats struct {
	Exchanges  atomic.Uint64 // questions given to Exchange
	Failures   atomic.Uint64 // of them, those that ended without an answer
	Asked      atomic.Uint64 // attempts sent, all kinds
	Hedges     atomic.Uint64 // second endpoints asked because the first was slow
	HedgeWins  atomic.Uint64 // of them, those that answered first
	Samples    atomic.Uint64 // questions copied to an endpoint of which nothing was heard lately
	Retries    atomic.Uint64 // further endpoints asked because the earlier failed or were overdue
	LastResort atomic.Uint64 // questions to the last resort
	Replaced   atomic.Uint64 // attempts left because their endpoint was removed
	Probes     atomic.Uint64
	Late       atomic.Uint64 // answers after their question had ended

	Lost       atomic.Uint64 // attempts that got overdue
	Ejections  atomic.Uint64
	Recoveries atomic.Uint64

	Mismatched atomic.Uint64 // datagrams and messages that did not match the question: ignored
	Malformed  atomic.Uint64 // responses that matched and could not be parsed
	Useless    atomic.Uint64 // SERVFAIL, REFUSED, NOTIMP, FORMERR and the like
	Truncated  atomic.Uint64 // UDP answers with TC: asked again by TCP
	TCPDials   atomic.Uint64
	TCPStale   atomic.Uint64 // questions asked again because the kept connection had been closed

	ConnRefused   atomic.Uint64 // ECONNREFUSED
	Unreachable   atomic.Uint64 // ENETUNREACH, EHOSTUNREACH
	NotPermitted  atomic.Uint64 // EPERM, EACCES on a send or connect: a filter of this host
	NoDescriptors atomic.Uint64 // EMFILE, ENFILE
	NoResources   atomic.Uint64 // ENOBUFS, ENOMEM, no free port
	Overloaded    atomic.Uint64 // the bound on sockets was reached
	OtherErrors   atomic.Uint64
	MarkRefused   atomic.Uint64 // sockets that could not be marked
	Panics        atomic.Uint64 // bugs met while parsing an answer
}

// Snapshot is Stats at one moment, plus what is open now.
type Snapshot struct {
	Exchanges, Failures, Asked, Hedges, HedgeWins, Samples, Retries, LastResort, Replaced, Probes, Late uint64

	Lost, Ejections, Recoveries uint64

	Mismatched, Malformed, Useless, Truncated, TCPDials, TCPStale uint64

	ConnRefused, Unreachable, NotPermitted, NoDescriptors, NoResources, Overloaded, OtherErrors, MarkRefused, Panics uint64

	Sockets   int // open UDP sockets
	Lingering int // of them, those that only wait for a late answer
	TCPConns  int
}

// Snapshot reads the counters of g.
func (g *Group) Snapshot() Snapshot {
	s := &g.stats
	n := Snapshot{
		Exchanges: s.Exchanges.Load(), Failures: s.Failures.Load(), Asked: s.Asked.Load(), Hedges: s.Hedges.Load(),
		HedgeWins: s.HedgeWins.Load(), Samples: s.Samples.Load(), Retries: s.Retries.Load(),
		LastResort: s.LastResort.Load(), Replaced: s.Replaced.Load(), Probes: s.Probes.Load(), Late: s.Late.Load(),
		Lost: s.Lost.Load(), Ejections: s.Ejections.Load(), Recoveries: s.Recoveries.Load(),
		Mismatched: s.Mismatched.Load(), Malformed: s.Malformed.Load(), Useless: s.Useless.Load(),
		Truncated: s.Truncated.Load(), TCPDials: s.TCPDials.Load(), TCPStale: s.TCPStale.Load(),
		ConnRefused: s.ConnRefused.Load(), Unreachable: s.Unreachable.Load(), NotPermitted: s.NotPermitted.Load(),
		NoDescriptors: s.NoDescriptors.Load(), NoResources: s.NoResources.Load(), Overloaded: s.Overloaded.Load(),
		OtherErrors: s.OtherErrors.Load(), MarkRefused: s.MarkRefused.Load(), Panics: s.Panics.Load(),
	}
	n.Sockets, n.Lingering = g.udp.count()
	for _, e := range g.list.Load().all {
		n.TCPConns += e.tcp.count()
	}
	return n
}

// count counts err by its kind and reports whether the endpoint, or the way to it, is to blame.
func (s *Stats) count(err error) (blame bool) {
	switch errno := errnoOf(err); {
	case errors.Is(err, ErrOverloaded):
		s.Overloaded.Add(1)
	case errno == syscall.ECONNREFUSED:
		s.ConnRefused.Add(1)
	case errno == syscall.ENETUNREACH, errno == syscall.EHOSTUNREACH:
		s.Unreachable.Add(1)
	case errno == syscall.EPERM, errno == syscall.EACCES:
		s.NotPermitted.Add(1)
	case errno == syscall.EMFILE, errno == syscall.ENFILE:
		s.NoDescriptors.Add(1)
	case isLocal(err):
		s.NoResources.Add(1)
	default:
		s.OtherErrors.Add(1)
	}
	return !isLocal(err)
}

// isLocal reports whether err says that this process, or this host, ran out of something: no endpoint's fault, and no use
// to try another.
func isLocal(err error) bool {
	switch errnoOf(err) {
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EAGAIN:
		return true
	}
	return errors.Is(err, ErrOverloaded)
}

// errnoOf returns the system's error in err, 0 if there is none.
func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	errors.As(err, &errno)
	return errno
}
