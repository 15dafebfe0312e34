package lab

import (
	"context"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/dnslet/dnslet/wire"
	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// newPlay is a Run under way whose cluster has so many pods.
func newPlay(t *testing.T, pods int) *play {
	t.Helper()
	return &play{o: Options{Agent: agentCommand(), Progress: io.Discard}, began: time.Now(),
		c: newCluster(t, Config{Pods: pods, Endpoints: 3})}
}

// The short form of blackhole-one: nobody fails, nobody waits for the stub's timer, and after the first second nobody meets the
// silent endpoint: who did would wait for a quarter of a second, the time after which an answer is overdue. The full form
// (dnslet lab run blackhole-one) compares p99s.
//
// Red when: upstream's pick does not look at the state of endpoints.
func TestBlackholeOne(t *testing.T) {
	p := newPlay(t, 3)
	err := p.oneSilent(t.Context(), WithAgent, oneSilent{rate: 100, rounds: 1, healthy: 2 * time.Second, back: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var phases []string
	for _, ph := range p.report.Phases {
		phases = append(phases, ph.Phase)
		if ph.Failed+ph.Wrong+ph.Stalled > 0 || ph.ByAgent != 1 || ph.Max > 2.5 {
			t.Errorf("%s: %+v", ph.Phase, ph.Tally)
		}
		if ph.Lookups == 0 || ph.Questions != 2*ph.Lookups {
			t.Errorf("%s: %d questions for %d lookups", ph.Phase, ph.Questions, ph.Lookups)
		}
		// Of 400 questions: 40 hedges and samples, four probes a second.
		if ph.Phase == Later && (ph.P99 > 0.2 || ph.extra() > extraUpstream) {
			t.Errorf("after the first second p99 is %v s, %.1f %% more is asked upstream", ph.P99, ph.extra()*100)
		}
	}
	if diff := cmp.Diff([]string{Healthy, FirstSecond, Later, Returned}, phases); diff != "" {
		t.Errorf("phases (-want +got):\n%s", diff)
	}
}

// The short form of blackhole-all: known names are answered, new ones are told why not and in time, memory is below its
// ceiling, and within a second of the endpoints' return every question is answered.
//
// Red when: clientWait and upstream's DefaultBudget are 10 s, or upstream's recovered does not raise the epoch: what failed again
// and again is then remembered for longer.
func TestBlackholeAll(t *testing.T) {
	p := newPlay(t, allSilentPods)
	err := p.allSilent(t.Context(), allSilent{rate: 4000, before: time.Second, settle: 2 * time.Second, shortest: 3 * time.Second,
		longest: 4 * time.Second, after: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	o := p.report.Outages[0]
	if !raceDetector && (o.Peak > o.Ceiling || o.Ceiling == 0) {
		t.Errorf("%d bytes were resident, the ceiling is %d", o.Peak, o.Ceiling)
	}
	if len(o.Memory) < 4 || o.Memory[0].Resident == 0 || o.FileLimit == 0 {
		t.Errorf("samples: %+v, %d descriptors allowed", o.Memory, o.FileLimit)
	}
	seen := map[string]NamesAsked{}
	for _, n := range o.Names {
		seen[n.Phase+": "+n.Names] = n
	}
	if n := seen["all silent: known before"]; n.answered() < 0.99 || n.Asked < 1000 {
		t.Errorf("known names during the outage: %+v", n)
	}
	// Those that wait when the endpoints return are answered; the others cannot be. 1.8 s, and what a machine that does other
	// things adds to the worst.
	if n := seen["all silent: new"]; n.Silent > n.Asked/100 || n.P99 > 3.5 || n.Why != n.ServFail || n.ServFail < n.Asked/2 || n.Asked < 5000 {
		t.Errorf("new names during the outage: %+v", n)
	}
	for _, names := range []string{"known before", "failing", "new"} {
		if n := seen["back: "+names]; n.Asked < 50 || n.answered() < 0.5 {
			t.Errorf("%s after the return: %+v", names, n)
		}
	}
	if o.Back > allBackWithin.Seconds() {
		t.Errorf("a question asked %v s after the return was not answered", o.Back)
	}
}

// A flood asks what it was told to ask, at its rate, and files every question once.
//
// Red when: run does not give up what waits at the end, or send does not make up for a late tick.
func TestFlood(t *testing.T) {
	c := newCluster(t, Config{Pods: 2, Endpoints: 1})
	f, err := c.newFlood(1000)
	if err != nil {
		t.Fatal(err)
	}
	const fails, lost = "x00000003.example.net.", "x00000006.example.net."
	c.Endpoints[0].Set(Behaviour{RCodes: map[string]int{fails: dns.RcodeServerFailure},
		Ignore: func(q dns.Question) bool { return q.Name == lost }})
	f.ask(mix{of: 10, new: 2, again: 1})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	all := f.run(ctx, nil)
	kinds := map[nameKind]int{}
	var failed, silent int
	for _, a := range all {
		kinds[a.kind]++
		switch {
		case a.took < 0:
			silent++
		case !a.good:
			failed++
			if a.rcode != wire.RCodeServFail {
				t.Errorf("rcode %v", a.rcode)
			}
		}
		if a.took >= 0 && (!a.foreign || a.took > floodPatience) {
			t.Errorf("a question: %+v", a)
		}
	}
	if n := c.Endpoints[0].Counts().Pods; int(n) != len(all) {
		t.Errorf("%d questions are filed, %d came", len(all), n)
	}
	if failed == 0 || silent == 0 || failed+silent > 10 {
		t.Errorf("%d failures, %d without a reply; want those of %s and %s", failed, silent, fails, lost)
	}
	// The tick that ends the second may still be made up for.
	if len(all) < 800 || len(all) > 1020 || kinds[newName]*5 < len(all)-50 || kinds[againName]*10 < len(all)-100 {
		t.Errorf("%d questions: %v", len(all), kinds)
	}
}

// Red when: settled looks at the latest sample instead of the most.
func TestSettled(t *testing.T) {
	const settle = 3 * time.Second
	for _, test := range []struct {
		resident []int64 // one each second, the first of before the outage
		want     bool
	}{
		{[]int64{10, 100, 100, 100}, false}, // three seconds of outage, not yet three without growth
		{[]int64{10, 100, 100, 100, 101}, true},
		{[]int64{10, 100, 100, 103, 100}, false},
		{[]int64{10, 100, 120, 90, 90, 90}, true},
		{[]int64{10, 100, 110, 120, 130, 140}, false},
	} {
		var w watch
		for i, r := range test.resident {
			w.samples = append(w.samples, Memory{At: float64(i), Resident: r})
		}
		if got := w.settled(settle); got != test.want {
			t.Errorf("settled after %v = %v", test.resident, got)
		}
	}
}

// Red when: sum takes a slow answer for a good one, or one of before the return into account.
func TestOutageSum(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	var o Outage
	o.sum([]asked{
		{at: 0, took: ms, kind: knownName, good: true},
		{at: 1 * s, took: ms, kind: knownName, good: true},
		{at: 2 * s, took: 3 * ms, kind: knownName, good: true, ede: wire.EDEStale},
		{at: 2 * s, took: 1800 * ms, kind: newName, rcode: wire.RCodeServFail, ede: wire.EDENoReachableAuthority},
		{at: 2 * s, took: 2500 * ms, kind: newName, rcode: wire.RCodeServFail},
		{at: 4 * s, took: -1, kind: newName},
		{at: 5500 * ms, took: 1900 * ms, kind: againName, good: true},
		{at: 6 * s, took: ms, kind: againName, good: true, foreign: true},
	}, s, 5*s)
	none := map[string]int{}
	want := Outage{Seconds: 4, Asked: 1.25, Back: 0.5, Names: []NamesAsked{
		{Phase: "before", Names: "known before", Asked: 1, Answered: 1, P50: 0.001, P99: 0.001, Max: 0.001, Reasons: none},
		{Phase: "all silent", Names: "known before", Asked: 1, Answered: 1, P50: 0.001, P99: 0.001, Max: 0.001, Reasons: none},
		{Phase: "all silent", Names: "known before, expired", Stale: true, Asked: 1, Answered: 1, P50: 0.003, P99: 0.003, Max: 0.003,
			Reasons: map[string]int{"Stale Answer": 1}},
		{Phase: "all silent", Names: "new", Asked: 3, ServFail: 2, Why: 1, Silent: 1, Late: 1, P50: 1.8, P99: 2.5, Max: 2.5,
			Reasons: map[string]int{"No Reachable Authority": 1}},
		{Phase: "back", Names: "failing", Asked: 2, Answered: 2, Others: 1, P50: 0.001, P99: 1.9, Max: 1.9, Reasons: none},
	}}
	if diff := cmp.Diff(want, o); diff != "" {
		t.Errorf("outage (-want +got):\n%s", diff)
	}
}

// The promises are held to what was measured: each of these worlds breaks one of them.
//
// Red when: a check of judgeOneSilent or judgeAllSilent is always true.
func TestJudgeOutages(t *testing.T) {
	one := func(change func([]Phase)) *play {
		p := &play{}
		for range 3 {
			for _, phase := range []string{Healthy, FirstSecond, Later} {
				p.report.Phases = append(p.report.Phases, Phase{Path: WithAgent, Phase: phase, Questions: 100, Upstream: 105,
					Tally: Tally{Lookups: 50, P99: 0.003, Max: 0.25}})
			}
		}
		p.report.Phases = append(p.report.Phases, Phase{Path: ThroughKubeProxy, Phase: Later, Tally: Tally{Lookups: 50, Stalled: 9, P99: 5}})
		change(p.report.Phases)
		p.judgeOneSilent()
		return p
	}
	all := func(change func(*Outage)) *play {
		o := Outage{Settled: true, Peak: 100, Ceiling: 200, Back: 0.2, Names: []NamesAsked{
			{Phase: duringOutage, Names: "known before", Asked: 1000, Answered: 1000},
			{Phase: duringOutage, Names: "new", Asked: 1000, ServFail: 1000, Why: 1000}}}
		change(&o)
		p := &play{}
		p.judgeAllSilent(o)
		return p
	}
	for name, test := range map[string]struct {
		p    *play
		want []int // the checks that are missed
	}{
		"one, well":                  {one(func([]Phase) {}), nil},
		"one, once slow":             {one(func(ph []Phase) { ph[2].P99 = 1 }), nil},
		"one, slow":                  {one(func(ph []Phase) { ph[2].P99, ph[5].P99 = 0.0037, 0.0037 }), []int{0}},
		"one, stalled":               {one(func(ph []Phase) { ph[1].Stalled = 1 }), []int{1}},
		"one, twice asked":           {one(func(ph []Phase) { ph[5].Upstream = 200 }), []int{2}},
		"all, well":                  {all(func(*Outage) {}), nil},
		"all, over the ceiling":      {all(func(o *Outage) { o.Peak = 201 }), []int{0}},
		"all, grows":                 {all(func(o *Outage) { o.Settled = false }), []int{1}},
		"all, known names fail":      {all(func(o *Outage) { o.Names[0].Answered = 990 }), []int{2}},
		"all, new names unanswered":  {all(func(o *Outage) { o.Names[1].Silent = 2 }), []int{3}},
		"all, replies are late":      {all(func(o *Outage) { o.Names[1].Silent, o.Names[1].Late = 1, 10 }), []int{4}},
		"all, no reason is given":    {all(func(o *Outage) { o.Names[1].Why-- }), []int{3}},
		"all, long after the return": {all(func(o *Outage) { o.Back = 1.01 }), []int{5}},
	} {
		var missed []int
		for i, c := range test.p.report.Checks {
			if !c.OK {
				missed = append(missed, i)
			}
		}
		if !slices.Equal(missed, test.want) {
			t.Errorf("%s: checks %v are missed, want %v: %+v", name, missed, test.want, test.p.report.Checks)
		}
	}
}
