package upstream

import (
	"testing"
	"time"
)

// Red when: take costs 50 instead of budgetCost.
func TestBudgetKeepsItsShare(t *testing.T) {
	b, taken := budget{earn: hedgeEarn}, 0
	for range 10000 {
		b.asked()
		if b.take() {
			taken++
		}
	}
	if taken < 690 || taken > 700 {
		t.Errorf("%d extra questions of 10000 at 7 %%", taken)
	}
}

// Red when: asked does not cap what is saved.
func TestBudgetDoesNotHoard(t *testing.T) {
	b, burst := budget{earn: hedgeEarn}, 0
	for range 100000 {
		b.asked()
	}
	for b.take() {
		burst++
	}
	if burst != budgetBurst {
		t.Errorf("%d in a row after a quiet time, want %d", burst, budgetBurst)
	}
}

func TestWaits(t *testing.T) {
	const whole = DefaultBudget
	ms := time.Millisecond
	tests := []struct{ p95, hedge, overdue time.Duration }{
		{0, hedgeUnknown, overdueFloor},
		{100 * time.Microsecond, hedgeFloor, overdueFloor},
		{20 * ms, 20 * ms, overdueFloor},
		{200 * ms, 200 * ms, 400 * ms},
		// Red when: overdueAfter has no upper bound: a third attempt would not fit into the budget.
		{time.Second, time.Second, whole / 3},
	}
	for _, tt := range tests {
		if h, o := hedgeAfter(tt.p95), overdueAfter(tt.p95, whole); h != tt.hedge || o != tt.overdue {
			t.Errorf("p95 %v: hedge after %v, overdue after %v; want %v, %v", tt.p95, h, o, tt.hedge, tt.overdue)
		}
	}
}
