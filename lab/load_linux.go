package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Load is a stream of lookups, begun at fixed times whatever becomes of the earlier ones: pods that wait do not make the
// others ask less.
type Load struct {
	Rate     int // lookups begun per second, by all pods in turn
	Duration time.Duration
	Seed     uint64 // the same seed, the same names in the same order
	New      bool   // only names of the internet that nobody has asked for before, each looked up as it is
}

// name draws the next name: a quarter Services of the pod's own namespace, a quarter of another, a third the same twenty names
// of the internet, the rest names of the internet that nobody has asked for before.
func (l Load) name(rng *rand.Rand, i int) string {
	if l.New {
		return fmt.Sprintf("u%d.s%d.example.net.", i, l.Seed)
	}
	services := []string{"web", "api", "db", "cache", "queue", "auth", "search", "mail"}
	switch share := rng.IntN(12); {
	case share < 3:
		return services[rng.IntN(len(services))]
	case share < 6:
		return services[rng.IntN(len(services))] + ".shop"
	case share < 10:
		return fmt.Sprintf("www%d.example.com", rng.IntN(20))
	default:
		return fmt.Sprintf("u%d.s%d.example.net", i, l.Seed)
	}
}

// Run looks the names up in the pods of the cluster and returns what became of each, in the order in which they were begun,
// when the last one has ended.
func (l Load) Run(ctx context.Context, c *Cluster) []Lookup {
	lookups := make([]Lookup, l.Rate*int(l.Duration/time.Second))
	rng := rand.New(rand.NewPCG(l.Seed, 0))
	timer := time.NewTimer(0)
	defer timer.Stop()
	began := time.Now()
	var wg sync.WaitGroup
	for i := range lookups {
		timer.Reset(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(l.Rate))))
		select {
		case <-timer.C:
		case <-ctx.Done():
			wg.Wait()
			return lookups[:i]
		}
		name, pod := l.name(rng, i), c.Pods[i%len(c.Pods)]
		wg.Go(func() { lookups[i] = pod.Lookup(ctx, name) })
	}
	wg.Wait()
	return lookups
}

// truth returns the addresses that a name has for a pod, in the order of A, then AAAA.
func truth(zones []Zone, name string) []netip.Addr {
	for _, candidate := range candidates(name) {
		if addrs, _ := find(zones, candidate).lookup(candidate); len(addrs) > 0 {
			return addrs
		}
	}
	return nil
}

// tally sums lookups up, and returns their times, sorted.
func tally(lookups []Lookup) (Tally, []time.Duration) {
	zones := ClusterZones()
	t := Tally{Lookups: len(lookups)}
	var took []time.Duration
	var agent, all int
	for _, l := range lookups {
		took = append(took, l.Took)
		agent += l.FromAgent
		all += l.FromAgent + l.FromCluster
		switch {
		case l.Failed():
			t.Failed++
		case !right(zones, l):
			t.Wrong++
		}
		if l.Stalled() {
			t.Stalled++
		}
	}
	slices.Sort(took)
	t.P50, t.P99, t.Max = quantile(took, 0.5).Seconds(), quantile(took, 0.99).Seconds(), quantile(took, 1).Seconds()
	if all > 0 {
		t.ByAgent = float64(agent) / float64(all)
	}
	return t, took
}

// right reports whether the lookup found what there is to find.
func right(zones []Zone, l Lookup) bool {
	want := slices.Clone(truth(zones, l.Name))
	got := slices.Clone(l.Addrs)
	slices.SortFunc(want, netip.Addr.Compare)
	slices.SortFunc(got, netip.Addr.Compare)
	return l.Err == nil && slices.Equal(got, want)
}

// soon is within what time a lookup is answered for its pod to be said to have DNS.
const soon = time.Second

// outage returns the longest stretch, by the beginning of lookups, in which none was right soon.
func outage(lookups []Lookup) time.Duration {
	zones := ClusterZones()
	var longest time.Duration
	var since time.Time // begin of the first bad one; zero: the last one was good
	for _, l := range lookups {
		bad := l.Took > soon || !right(zones, l)
		switch {
		case bad && since.IsZero():
			since = l.Began
		case !bad && !since.IsZero():
			longest = max(longest, l.Began.Sub(since))
			since = time.Time{}
		}
	}
	if !since.IsZero() {
		longest = max(longest, lookups[len(lookups)-1].Began.Sub(since))
	}
	return longest
}

// first returns how long after a moment the first lookup began that was right soon and answered by dnslet alone, or by
// cluster DNS alone; in seconds, -1 for none.
func first(lookups []Lookup, after time.Time, byAgent bool) float64 {
	zones := ClusterZones()
	for _, l := range lookups {
		who := l.FromCluster == 0
		if !byAgent {
			who = l.FromAgent == 0
		}
		if l.Began.After(after) && l.Took <= soon && who && right(zones, l) {
			return l.Began.Sub(after).Seconds()
		}
	}
	return -1
}
