package upstream

import "time"

// budget is a token bucket in hundredths of a question: every question earns, every extra one costs a hundred. It has no
// clock, because what must stay small is the share of extra load, not its rate.
type budget struct {
	earn  int // hundredths per question
	saved int
}

const (
	// Hedges and samples together stay below a tenth of the load.
	hedgeEarn  = 7
	sampleEarn = 3
	// budgetBurst lets that many extra questions go out in a row after a quiet time; beyond, an endpoint that turns slow
	// for all would be answered by doubling the load.
	budgetBurst = 10
	budgetCost  = 100
)

// asked accounts for one question.
func (b *budget) asked() { b.saved = min(b.saved+b.earn, budgetBurst*budgetCost) }

// take reports whether one extra question may be asked, and charges it.
func (b *budget) take() bool {
	if b.saved < budgetCost {
		return false
	}
	b.saved -= budgetCost
	return true
}

const (
	// sampleEvery is how old the latest news of an endpoint's speed may get while others answer in its place.
	sampleEvery = time.Second
	// hedgeFloor: below it a timer and a socket cost more than the wait.
	hedgeFloor = time.Millisecond
	// hedgeUnknown is used before an endpoint's p95 is known: far above a round trip within a cluster, far below a stub
	// resolver's patience.
	hedgeUnknown = 100 * time.Millisecond
	// overdueFloor: an answer that CoreDNS has to fetch from the Internet takes this long in good health. It costs
	// little when wrong: one repeated question, and one probe.
	overdueFloor = 250 * time.Millisecond
)

// hedgeAfter is the time after which a second endpoint may be asked as well, given the first one's p95 (0: unknown).
func hedgeAfter(p95 time.Duration) time.Duration {
	if p95 == 0 {
		return hedgeUnknown
	}
	return max(p95, hedgeFloor)
}

// overdueAfter is the time after which an answer is no longer counted on and the next endpoint is asked. A third of the
// budget at most, so that three attempts fit.
func overdueAfter(p95, whole time.Duration) time.Duration {
	return min(max(2*p95, overdueFloor), whole/3)
}
