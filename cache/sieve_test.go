package cache

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// reference is SIEVE as its paper writes it (algorithm 1), on a slice from the oldest to the newest.
type reference struct {
	order   []*Entry
	visited map[*Entry]bool
	hand    int
}

func (s *reference) remove(e *Entry) {
	i := slices.Index(s.order, e)
	s.order = slices.Delete(s.order, i, i+1)
	if i < s.hand {
		s.hand--
	}
	if s.hand == len(s.order) {
		s.hand = 0 // behind the newest comes the oldest, even if a newer one is to come first
	}
}

func (s *reference) victim() *Entry {
	for {
		if s.hand >= len(s.order) {
			s.hand = 0
		}
		e := s.order[s.hand]
		if !s.visited[e] {
			return e
		}
		s.visited[e] = false
		s.hand++
	}
}

// The queue evicts what the paper's algorithm evicts, whatever else is removed or replaced meanwhile.
//
// Red when: push adds at the tail, remove leaves the hand on what it removed, or victim starts at the tail each
// time.
func TestSieve(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	q, ref := queue{}, reference{visited: map[*Entry]bool{}}
	for i := range 200_000 {
		switch op := r.IntN(10); {
		case op < 4 && len(ref.order) < 300 || len(ref.order) == 0:
			e := &Entry{}
			q.push(e)
			ref.order = append(ref.order, e)
		case op < 7:
			e := ref.order[r.IntN(len(ref.order))]
			e.state.Or(visited)
			ref.visited[e] = true
		case op == 7:
			k := r.IntN(len(ref.order))
			old, e := ref.order[k], &Entry{}
			q.replace(old, e)
			ref.order[k] = e
			if old.newer != nil || old.older != nil {
				t.Fatal("what was replaced is still linked")
			}
		case op == 8 && i%3 == 0:
			e := ref.order[r.IntN(len(ref.order))]
			q.remove(e)
			ref.remove(e)
		default:
			got, want := q.victim(), ref.victim()
			if got != want {
				t.Fatalf("op %d: evicts number %d of %d, want %d", i, slices.Index(ref.order, got), len(ref.order), slices.Index(ref.order, want))
			}
			q.remove(got)
			ref.remove(got)
		}
	}
	for range ref.order {
		q.remove(q.victim())
	}
	if q.head != nil || q.tail != nil || q.hand != nil || q.victim() != nil {
		t.Error("an empty queue has something in it")
	}
}

// When all was visited, an eviction looks at a bounded number of entries, since a writer waits for it.
//
// Red when: victim loops until it finds a bit that is clear.
func TestEvictionHasBoundedPatience(t *testing.T) {
	var q queue
	for range 10 * patience {
		e := &Entry{}
		e.state.Store(visited)
		q.push(e)
	}
	e := q.victim()
	cleared := 0
	for x := q.tail; x != nil; x = x.newer {
		if x.state.Load()&visited == 0 {
			cleared++
		}
	}
	if e == nil || cleared != patience {
		t.Errorf("%d entries were looked at, want %d", cleared, patience)
	}
}
