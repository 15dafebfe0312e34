package intercept

import (
	"testing"
	"time"
)

// The first lapse costs nothing; each further one doubles the wait, up to half a minute; after a calm minute it starts afresh.
//
// Red when: lapsed does not double, does not end doubling, counts the first lapse, or never forgets.
func TestPatience(t *testing.T) {
	var p patience
	now := time.Unix(1000, 0)
	for n, want := range []time.Duration{0, 1, 2, 4, 8, 16, 30, 30, 30} {
		p.lapsed(now)
		want *= time.Second
		if want > 0 && p.asks(now.Add(want-1)) {
			t.Errorf("lapse %d: asks before %s have passed", n+1, want)
		}
		if !p.asks(now.Add(want)) {
			t.Errorf("lapse %d: does not ask after %s", n+1, want)
		}
		now = now.Add(want + 10*time.Second)
	}
	now = now.Add(calm + time.Second)
	p.lapsed(now)
	if !p.asks(now) {
		t.Error("a lapse after a calm minute was not forgiven")
	}
	p.lapsed(now)
	if p.asks(now) || !p.asks(now.Add(firstHold)) {
		t.Error("the lapse after it was not damped as the second one")
	}
	for range 100 {
		p.lapsed(now) // no overflow
	}
	if p.asks(now.Add(longestHold-1)) || !p.asks(now.Add(longestHold)) {
		t.Error("a hundred lapses do not wait half a minute")
	}
}
