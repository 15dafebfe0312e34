package intercept

import "time"

const (
	// The first lapse costs nothing: an agent that was stopped and goes on is back with its first answer.
	firstHold = time.Second
	// The longest time that a flapping agent is kept out.
	longestHold = 30 * time.Second
	// An agent that has not lapsed for so long starts afresh.
	calm = time.Minute
)

// patience damps flapping: an agent that lapses again and again would make clients go back and forth, each lapse costing
// them questions. After each lapse but the first the prober waits, twice as long each time, before it asks again.
// It is one listener's and transport's, and a value without a clock.
type patience struct {
	lapses int
	last   time.Time // of the last lapse
	until  time.Time // asks nothing before
}

// lapsed notes that an agent that had been answering stopped at now.
func (p *patience) lapsed(now time.Time) {
	if p.lapses > 0 && now.Sub(p.until) > calm && now.Sub(p.last) > calm {
		p.lapses = 0
	}
	p.last = now
	if p.lapses > 0 {
		p.until = now.Add(min(firstHold<<min(p.lapses-1, 10), longestHold))
	}
	p.lapses++
}

// asks tells whether the prober may ask at now.
func (p *patience) asks(now time.Time) bool { return !now.Before(p.until) }
