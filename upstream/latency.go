package upstream

import (
	"math/bits"
	"time"
)

// latency is what is known of an endpoint's round trips: a moving mean to rank by and a 95th percentile to hedge by.
// A plain value without clock or lock; late answers belong into it as much as winning ones, or a slow endpoint would
// look fast.
type latency struct {
	ewma  time.Duration
	p95   time.Duration
	total int // samples in buckets
	since int // samples since p95 was computed
	// buckets is a histogram with four steps to the octave (a relative error of at most 19 %), from 64 us up.
	buckets [latencyBuckets]uint16
}

const (
	// latencyBuckets covers 64 us to 4 s; the ends take what is beyond.
	latencyBuckets = 64
	latencyFloor   = 64 * time.Microsecond
	// latencyWeight is TCP's (RFC 6298 section 2): a new sample counts one eighth.
	latencyWeight = 8
	// latencyMemory halves the histogram, so that p95 speaks of the last few hundred answers.
	latencyMemory = 512
	// latencyMin is how many samples a percentile of 95 needs to mean anything.
	latencyMin = 20
	// latencyRefresh is how many samples pass between two walks over the histogram.
	latencyRefresh = 16
)

// add takes one round trip into account.
func (l *latency) add(d time.Duration) {
	if l.ewma == 0 {
		l.ewma = d
	} else {
		l.ewma += (d - l.ewma) / latencyWeight
	}
	l.ewma = max(l.ewma, 1) // 0 means "none yet"
	l.buckets[bucketOf(d)]++
	l.total++
	l.since++
	if l.total >= latencyMemory {
		l.halve()
	}
	if l.total >= latencyMin && (l.since >= latencyRefresh || l.p95 == 0) {
		l.p95, l.since = l.percentile(95), 0
	}
}

// penalize moves the mean, not the percentile, towards d: the endpoint gave a useless answer where another had a good one.
func (l *latency) penalize(d time.Duration) {
	l.ewma = max(l.ewma+(d-l.ewma)/latencyWeight, l.ewma, 1)
}

func (l *latency) halve() {
	l.total = 0
	for i, n := range l.buckets {
		l.buckets[i] = n / 2
		l.total += int(n / 2)
	}
}

// percentile returns the upper edge of the bucket in which p percent of the samples are reached.
func (l *latency) percentile(p int) time.Duration {
	need, seen := (l.total*p+99)/100, 0
	for i, n := range l.buckets {
		if seen += int(n); seen >= need {
			return bucketEdge(i)
		}
	}
	return bucketEdge(latencyBuckets - 1)
}

// bucketOf returns the bucket of d: the octave above latencyFloor times four, plus the quarter within the octave.
func bucketOf(d time.Duration) int {
	if d < latencyFloor {
		return 0
	}
	x := uint64(d) * 4 / uint64(latencyFloor) // >= 4, so that two bits below the top one exist
	octave := bits.Len64(x) - 3
	return min(octave*4+int(x>>octave&3), latencyBuckets-1)
}

// bucketEdge returns the upper edge of bucket i.
func bucketEdge(i int) time.Duration {
	i++
	return latencyFloor * time.Duration(4+i%4) << (i / 4) / 4
}
