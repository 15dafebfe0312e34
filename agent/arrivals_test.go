package agent

import (
	"testing"
	"time"
)

// Red when: look does not wait for arrivalTime, forgets that something came, or does not double the time.
func TestArrivals(t *testing.T) {
	type look struct {
		at             time.Duration
		given, arrived uint64
		left           bool // to cluster DNS, afterwards
	}
	for name, looks := range map[string][]look{
		"all arrive":            {{0, 0, 0, false}, {1 * time.Second, 100, 100, false}, {2 * time.Second, 200, 199, false}},
		"idle":                  {{0, 0, 3, false}, {1 * time.Second, 0, 2, false}, {time.Hour, 0, 3, false}},
		"a burst is lost":       {{0, 0, 0, false}, {1 * time.Second, 900, 0, false}, {2 * time.Second, 901, 1, false}, {3 * time.Second, 902, 1, false}},
		"too few to tell":       {{0, 0, 0, false}, {1 * time.Second, 2, 0, false}, {5 * time.Second, 4, 0, false}},
		"none arrives":          {{0, 0, 0, false}, {1 * time.Second, 2, 0, false}, {2 * time.Second, 5, 0, true}, {61 * time.Second, 5, 0, true}, {62 * time.Second, 5, 0, false}},
		"none arrives again":    {{0, 0, 0, false}, {1 * time.Second, 5, 0, false}, {2 * time.Second, 5, 0, true}, {62 * time.Second, 5, 0, false}, {63 * time.Second, 10, 0, false}, {64 * time.Second, 10, 0, true}, {183 * time.Second, 10, 0, true}, {184 * time.Second, 10, 0, false}},
		"the firewall was gone": {{0, 0, 0, false}, {1 * time.Second, 5, 0, false}, {2 * time.Second, 5, 0, true}, {62 * time.Second, 5, 0, false}, {63 * time.Second, 9, 4, false}, {64 * time.Second, 14, 4, false}, {65 * time.Second, 14, 4, true}, {125 * time.Second, 14, 4, false}},
	} {
		var r arrivals
		begin := time.Now()
		for i, l := range looks {
			before := r.verdict() != ""
			changed := r.look(begin.Add(l.at), l.given, l.arrived)
			if left := r.verdict() != ""; left != l.left || changed != (before != left) {
				t.Errorf("%s, look %d: left to cluster DNS %v, want %v; change told %v", name, i, left, l.left, changed)
			}
		}
	}
}
