package cache

// queue orders entries by arrival and chooses whom to evict: SIEVE. A hit leaves the queue alone, it only sets
// the visited bit. The hand walks from the oldest to the newest, gives each visited entry another round by
// clearing its bit, and takes the first that nobody has asked for since. Names that are asked once are gone
// soon (the hand stays where it is while they come and go at the new end), names in demand stay.
//
// The links are fields of the entries: the writer's, guarded by Cache.mu.
type queue struct {
	head, tail *Entry // newest, oldest
	hand       *Entry // next candidate; nil: the tail
}

// patience is how many entries in a row the hand spares. It bounds how long one eviction holds the writer
// lock when everything was visited; the entry after them would be SIEVE's choice one lap later.
const patience = 1024

func (q *queue) push(e *Entry) {
	e.older = q.head
	if q.head != nil {
		q.head.newer = e
	}
	q.head = e
	if q.tail == nil {
		q.tail = e
	}
}

func (q *queue) remove(e *Entry) {
	if q.hand == e {
		q.hand = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		q.head = e.older
	}
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		q.tail = e.newer
	}
	// A reader may hold e for long. It must not keep its neighbours, and theirs, from the collector.
	e.newer, e.older = nil, nil
}

// replace puts e where old is.
func (q *queue) replace(old, e *Entry) {
	e.newer, e.older = old.newer, old.older
	if q.hand == old {
		q.hand = e
	}
	if e.newer != nil {
		e.newer.older = e
	} else {
		q.head = e
	}
	if e.older != nil {
		e.older.newer = e
	} else {
		q.tail = e
	}
	old.newer, old.older = nil, nil
}

// victim returns the entry to evict next, nil when there is none. The caller removes it.
func (q *queue) victim() *Entry {
	e := q.hand
	for range patience {
		if e == nil {
			e = q.tail
		}
		if e == nil || e.state.Load()&visited == 0 {
			break
		}
		e.state.And(^uint32(visited))
		e = e.newer
	}
	if e == nil {
		e = q.tail
	}
	q.hand = e
	return e
}
