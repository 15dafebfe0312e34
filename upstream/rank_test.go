package upstream

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPick(t *testing.T) {
	ms := time.Millisecond
	up := func(d time.Duration) candidate { return candidate{state: Up, ewma: d} }
	suspect := func(d time.Duration) candidate { return candidate{state: Suspect, ewma: d} }
	down := func(d time.Duration) candidate { return candidate{state: Down, ewma: d} }
	tried := candidate{state: Up, ewma: ms, tried: true}
	tests := []struct {
		name string
		from []candidate
		want []int // what chance may choose from
	}{
		{"none", nil, []int{-1}},
		{"all tried", []candidate{tried, tried}, []int{-1}},
		{"equals share", []candidate{up(ms), up(ms), up(ms)}, []int{0, 1, 2}},
		// Red when: nearFactor is 1 and nearSlack 0: two replicas would never both be used.
		{"near ones share", []candidate{up(ms), up(2 * ms), up(3 * ms)}, []int{0, 1, 2}},
		{"a far one waits", []candidate{up(ms), up(4 * ms), up(2 * ms)}, []int{0, 2}},
		// Red when: an unknown latency counts as 0 for fastest.
		{"an unknown one shares", []candidate{up(0), up(5 * ms), up(30 * ms)}, []int{0, 1}},
		{"all unknown", []candidate{up(0), up(0)}, []int{0, 1}},
		// Red when: pick compares latency before state.
		{"state before speed", []candidate{suspect(ms), up(50 * ms), down(ms)}, []int{1}},
		{"a suspect before a dead one", []candidate{down(ms), suspect(90 * ms)}, []int{1}},
		{"a dead one where there is no other", []candidate{down(ms), tried}, []int{0}},
		{"the second choice", []candidate{tried, up(20 * ms), up(90 * ms)}, []int{1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			seen, got := map[int]bool{}, []int(nil)
			for i := range 1000 {
				seen[pick(tt.from, uint32(float64(i)/999*math.MaxUint32))] = true
			}
			for i := -1; i < len(tt.from); i++ {
				if seen[i] {
					got = append(got, i)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("chosen (-want +got):\n%s", diff)
			}
		})
	}
}
