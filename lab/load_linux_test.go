package lab

import (
	"errors"
	"testing"
	"time"
)

// at makes lookups of a name with known addresses, 10 ms apart, each taking what is given; negative: it failed.
func at(begin time.Time, took ...time.Duration) []Lookup {
	var lookups []Lookup
	for i, d := range took {
		l := Lookup{Name: "web", Began: begin.Add(time.Duration(i) * 10 * time.Millisecond), Took: d, FromAgent: 2}
		if d < 0 {
			l.Took, l.Err = -d, errors.New("failed")
		} else {
			l.Addrs = truth(ClusterZones(), "web")
		}
		lookups = append(lookups, l)
	}
	return lookups
}

// Red when: outage counts from the last good lookup, or forgets one that never ends.
func TestOutage(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	for _, test := range []struct {
		took []time.Duration
		want time.Duration
	}{
		{nil, 0},
		{[]time.Duration{ms, ms}, 0},
		{[]time.Duration{ms, 2 * s, 2 * s, -ms, ms}, 30 * ms},
		{[]time.Duration{ms, 2 * s, ms, -5 * s, 2 * s, ms}, 20 * ms},
		{[]time.Duration{ms, 2 * s, 2 * s}, 10 * ms},
	} {
		if got := outage(at(time.Now(), test.took...)); got != test.want {
			t.Errorf("outage of %v = %v, want %v", test.took, got, test.want)
		}
	}
}

// Red when: first takes a slow answer, or one of somebody else.
func TestFirst(t *testing.T) {
	begin := time.Now()
	lookups := at(begin, time.Millisecond, 2*time.Second, time.Millisecond, time.Millisecond)
	lookups[2].FromAgent, lookups[2].FromCluster = 0, 2
	after := begin.Add(time.Millisecond)
	if got := first(lookups, after, false); got != 0.019 {
		t.Errorf("first of cluster DNS after %v s, want 0.019", got)
	}
	if got := first(lookups, after, true); got != 0.029 {
		t.Errorf("first of dnslet after %v s, want 0.029", got)
	}
	if got := first(lookups, after.Add(time.Second), true); got != -1 {
		t.Errorf("first after the last is %v, want -1", got)
	}
}

// Red when: right does not compare addresses.
func TestTally(t *testing.T) {
	lookups := at(time.Now(), time.Millisecond, 3*time.Millisecond, -10*time.Second, 5*time.Second)
	lookups[0].Addrs = lookups[0].Addrs[:0]
	lookups[1].FromCluster = 2
	lookups[2].Timeouts, lookups[3].Timeouts = 2, 1
	got, _ := tally(lookups)
	want := Tally{Lookups: 4, Failed: 1, Wrong: 1, Stalled: 2, P50: 0.003, P99: 10, Max: 10, ByAgent: 0.8}
	if got != want {
		t.Errorf("tally = %+v, want %+v", got, want)
	}
}
