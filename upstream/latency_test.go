package upstream

import (
	"testing"
	"time"
)

// Red when: bucketEdge returns the lower edge of its bucket.
func TestBucketsContainWhatTheyCount(t *testing.T) {
	for d := latencyFloor; d < 4*time.Second; d += d/7 + 1 {
		i := bucketOf(d)
		if edge := bucketEdge(i); d >= edge {
			t.Errorf("%v is in bucket %d, which ends at %v", d, i, edge)
		} else if i > 0 && d < bucketEdge(i-1) {
			t.Errorf("%v is in bucket %d, which begins at %v", d, i, bucketEdge(i-1))
		} else if i > 0 && edge > d*5/4+1 {
			t.Errorf("%v is in bucket %d, which ends as far as %v", d, i, edge)
		}
	}
	for _, d := range []time.Duration{0, -1, 1, time.Hour} {
		if i := bucketOf(d); i < 0 || i >= latencyBuckets {
			t.Errorf("%v is in bucket %d", d, i)
		}
	}
}

func TestLatencyPercentile(t *testing.T) {
	ms := time.Millisecond
	spread := func(n int, of ...time.Duration) (ds []time.Duration) {
		for i := range n {
			ds = append(ds, of[i%len(of)])
		}
		return ds
	}
	tests := []struct {
		name     string
		samples  []time.Duration
		min, max time.Duration // of p95
	}{
		{"none", nil, 0, 0},
		// Red when: latencyMin is 1.
		{"too few", spread(19, ms), 0, 0},
		{"constant", spread(100, ms), ms, 5 * ms / 4},
		{"one of 40 is slow", spread(400, append(spread(39, ms), 90*ms)...), ms, 5 * ms / 4},
		// Red when: percentile(95) becomes percentile(50).
		{"one of 10 is slow", spread(400, append(spread(9, ms), 90*ms)...), 90 * ms, 120 * ms},
		// Red when: halve is not called.
		{"grown slow", append(spread(20000, ms), spread(2*latencyMemory, 50*ms)...), 50 * ms, 65 * ms},
		{"grown fast", append(spread(20000, 50*ms), spread(4*latencyMemory, ms)...), ms, 5 * ms / 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var l latency
			for _, d := range tt.samples {
				l.add(d)
			}
			if l.p95 < tt.min || l.p95 > tt.max {
				t.Errorf("p95 is %v, want %v to %v", l.p95, tt.min, tt.max)
			}
		})
	}
}

// Red when: add weighs a sample one half.
func TestLatencyMeanFollowsSlowly(t *testing.T) {
	var l latency
	l.add(time.Millisecond)
	if l.ewma != time.Millisecond {
		t.Fatalf("mean after the first sample is %v", l.ewma)
	}
	l.add(9 * time.Millisecond)
	if l.ewma != 2*time.Millisecond {
		t.Errorf("mean is %v, want 1 ms and an eighth of the difference", l.ewma)
	}
	for range 100 {
		l.add(9 * time.Millisecond)
	}
	if l.ewma < 89*time.Millisecond/10 {
		t.Errorf("mean is %v after 100 samples of 9 ms", l.ewma)
	}
}

// Red when: penalize also takes the mean down.
func TestPenaltyOnlySlows(t *testing.T) {
	l := latency{ewma: time.Second}
	if l.penalize(time.Millisecond); l.ewma != time.Second {
		t.Errorf("a slow endpoint became faster by a penalty: %v", l.ewma)
	}
	l.ewma = time.Millisecond
	if l.penalize(overdueFloor); l.ewma <= nearFactor*time.Millisecond+nearSlack {
		t.Errorf("one penalty leaves a fast endpoint near: %v", l.ewma)
	}
}
