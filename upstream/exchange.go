package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/dnslet/dnslet/wire"
)

const (
	// maxAttempts bounds what one question may cost when everything is silent, maxRound what it may cost without news
	// from Update or of an outage's end.
	maxAttempts = 16
	maxRound    = 8
	// maxSteps is how many endpoints are asked because of silence; failures that show at once do not count.
	maxSteps = 4
	// lastResortStep is the step with which the last resort is asked too, unless some endpoint was heard: two have been
	// silent by then.
	lastResortStep = 3
)

// exchange is one question on its way to an answer. It is a state machine of one goroutine, the caller's: transports only
// put finished attempts into events.
type exchange struct {
	g        *Group
	list     *list
	query    []byte // own copy; the ID is that of the latest attempt
	question []byte // its question
	began    int64
	end      int64
	hedgeAt  int64 // when a second endpoint may be asked for speed; 0: done or not wanted
	events   chan *attempt

	attempts []*attempt
	waiting  int // attempts that are not over
	hedge    *attempt

	// Of this round: onReplaced begins a new one.
	from       int  // its first attempt
	steps      int  // endpoints asked for want of an answer
	dead       bool // one that is held for dead was asked
	lastResort bool // was asked

	useless  int      // how many said SERVFAIL or the like
	fallback *attempt // the best answer that is not good
	err      error    // of the latest failed attempt

	room  [288]byte // for query
	slots [maxAttempts]*attempt
}

// timers are reused: a question takes far less time than its timer would live.
var timers = sync.Pool{New: func() any {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}}

// Exchange asks query, a whole DNS message with one question and any ID, and returns the answer and how it was had. The
// answer has the ID of query and is in buf where it fits, else newly allocated (64 KiB always suffice); query and buf are
// the caller's again when Exchange returns. It returns within Config.Budget, or when ctx ends; a deadline of ctx is a shorter
// budget.
//
// The answer matches the question (QR, opcode, the question itself, letters compared without case) and is well formed.
// It may be SERVFAIL or REFUSED when two endpoints said so or no other could be asked, and truncated when TCP to the
// endpoint failed.
func (g *Group) Exchange(ctx context.Context, query, buf []byte) ([]byte, Meta, error) {
	x := &exchange{g: g, began: g.now(), events: make(chan *attempt, maxAttempts)}
	x.query = append(x.room[:0], query...)
	x.question = wire.Question(x.query)
	if x.question == nil || wire.MsgFlags(query)&(wire.FlagQR|opcodeMask) != 0 {
		return nil, Meta{}, ErrQuery
	}
	x.end = x.began + int64(g.cfg.Budget)
	x.attempts = x.slots[:0]
	x.list = g.list.Load()
	g.stats.Exchanges.Add(1)
	winner, err := x.run(ctx)
	x.leave()
	if err != nil {
		g.stats.Failures.Add(1)
		return nil, Meta{}, fmt.Errorf("cannot ask upstream group %q: %w", g.cfg.Name, err)
	}
	answer := append(buf[:0], winner.resp...)
	wire.SetMsgID(answer, wire.MsgID(query))
	return answer, Meta{
		Endpoint: winner.ep.Endpoint, RTT: time.Duration(winner.rtt),
		LastResort: winner.ep.lastResort, Hedged: x.hedge != nil,
	}, nil
}

// opcodeMask is the opcode within the flags; only QUERY, 0, is forwarded.
const opcodeMask = 0x7800

// run asks, waits and asks elsewhere until there is an answer, nothing is left to wait for, or time is up.
func (x *exchange) run(ctx context.Context) (*attempt, error) {
	select {
	case <-x.g.done:
		return nil, ErrClosed
	default:
	}
	// 1. The first endpoint, and perhaps a copy to one that is rarely asked.
	x.step()
	x.sample()
	timer := timers.Get().(*time.Timer)
	defer func() {
		timer.Stop()
		timers.Put(timer)
	}()
	for x.waiting > 0 {
		now := x.g.now()
		if now >= x.end {
			return x.give(ErrTimeout)
		}
		timer.Reset(time.Duration(x.next() - now))
		select {
		case a := <-x.events:
			// 2. An answer ends it; anything else leads to the next endpoint.
			if x.judge(a) {
				return a, nil
			}
			if x.useless > 1 {
				return x.give(nil)
			}
		case <-timer.C:
			// 3. Slow: a second endpoint. Silent: the next one, unless a useless answer is at hand already. A truncated one is
			// worth asking everybody, but not the whole budget: TCP may be forbidden on the way to all of them.
			if silent := x.onTime(); silent && x.useless == 0 && x.steps < maxSteps {
				x.step()
			}
			if x.fallback != nil && !x.hopeful() {
				return x.give(nil)
			}
		case <-x.list.replaced:
			// 4. Other endpoints, or the same ones back from the dead; it may be the answer that brought them back.
			if len(x.events) == 0 {
				x.onReplaced()
			}
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) { // a deadline of the caller's is a shorter budget
				return x.give(ErrTimeout)
			}
			return nil, ctx.Err()
		case <-x.g.done:
			return nil, ErrClosed
		}
	}
	return x.give(ErrUnreachable)
}

// give returns what there is in want of a good answer, or the reason why there is nothing.
func (x *exchange) give(err error) (*attempt, error) {
	if x.fallback != nil {
		return x.fallback, nil
	}
	if len(x.attempts) == 0 && x.err == nil {
		return nil, ErrNoEndpoint
	}
	if isLocal(x.err) && x.waiting == 0 {
		return nil, fmt.Errorf("%w: %w", ErrOverloaded, x.err)
	}
	if !x.heard() {
		x.g.outage.Store(true) // the next recovery makes this failure worth nothing
	}
	if x.err != nil {
		return nil, fmt.Errorf("%w: %w", err, x.err)
	}
	return nil, err
}

// leave lets go of what is still under way.
func (x *exchange) leave() {
	for _, a := range x.attempts {
		if !a.over {
			x.g.udp.linger(a)
		}
	}
}

// judge looks at an attempt that is finished and reports whether it brought the answer. If not, the next step is taken.
func (x *exchange) judge(a *attempt) bool {
	if a.over { // given up before: its endpoint was removed
		return false
	}
	if a.err != nil && a.ep.gone.Load() { // its connection was closed for that reason; the new list is the place to look
		x.onReplaced()
		return false
	}
	a.over = true
	x.waiting--
	switch {
	case a.err != nil:
		x.err = a.err
	case a.short:
		x.g.stats.Truncated.Add(1)
		if x.fallback == nil || !x.fallback.short {
			x.fallback = a
		}
		if x.ask(a.ep, true) {
			return false
		}
	case a.kind == wire.Failure:
		x.g.stats.Useless.Add(1)
		x.useless++
		if x.fallback == nil {
			x.fallback = a
		}
	default:
		if f := x.fallback; f != nil && !f.short && f.ep != a.ep {
			f.ep.onUseless()
		}
		if a == x.hedge {
			x.g.stats.HedgeWins.Add(1)
		}
		return true
	}
	if x.useless < 2 && !x.hopeful() {
		x.step()
	}
	return false
}

// hopeful reports whether some attempt is under way and not yet overdue, a hedge for one.
func (x *exchange) hopeful() bool {
	for _, a := range x.attempts {
		if !a.over && !a.overdue {
			return true
		}
	}
	return false
}

// step asks the next endpoint, and the last resort when there is no better or it is time for it.
func (x *exchange) step() {
	x.steps++
	if x.steps > 1 {
		x.g.stats.Retries.Add(1)
	}
	asked := false
	for e := x.choose(false); e != nil; e = x.choose(false) {
		x.dead = x.dead || State(e.state.Load()) == Down
		if asked = x.ask(e, false); asked || isLocal(x.err) {
			break
		}
	}
	if x.fallback != nil {
		return // the last resort leads to the same servers, and one of them has spoken
	}
	if !asked && isLocal(x.err) {
		return
	}
	if x.dead || !asked && x.waiting == 0 || (!asked || x.steps >= lastResortStep) && !x.heard() {
		asked = x.askLastResort() || asked
	}
	if !asked && x.waiting > 0 {
		if e := x.choose(true); e != nil {
			x.ask(e, false) // all were asked and are silent: a packet may have been lost
		}
	}
}

// choose returns the endpoint to ask next, nil if there is none. again allows those that were asked before. Of those that
// are held for dead one is asked at most, and none when there is an answer of a kind already.
func (x *exchange) choose(again bool) *endpoint {
	if len(x.attempts)-x.from >= maxRound {
		return nil
	}
	var room [16]candidate
	cs := room[:0]
	for _, e := range x.list.all {
		c := candidate{state: State(e.state.Load()), ewma: time.Duration(e.ewma.Load())}
		c.tried = !again && x.tried(e) || c.state == Down && (again || x.dead || x.fallback != nil)
		cs = append(cs, c)
	}
	if i := pick(cs, rand.Uint32()); i >= 0 {
		return x.list.all[i]
	}
	return nil
}

// heard reports whether any endpoint has answered anything since the question was asked: they live, and only this name is
// slow. The last resort leads to the same servers and would cost a conntrack entry each time.
func (x *exchange) heard() bool {
	for _, e := range x.list.all {
		if e.answeredSince(x.began) {
			return true
		}
	}
	return false
}

// tried reports whether e was asked in this round.
func (x *exchange) tried(e *endpoint) bool {
	for _, a := range x.attempts[x.from:] {
		if a.ep == e {
			return true
		}
	}
	return false
}

// askLastResort asks the last resort, once.
func (x *exchange) askLastResort() bool {
	if x.g.lastResort == nil || x.lastResort {
		return false
	}
	x.lastResort = true
	x.g.stats.LastResort.Add(1)
	return x.ask(x.g.lastResort, false)
}

// ask makes an attempt at e and reports whether it is under way. If not, x.err says why.
func (x *exchange) ask(e *endpoint, byTCP bool) bool {
	if len(x.attempts) == maxAttempts {
		return false
	}
	a := &attempt{ep: e, question: x.question, byTCP: byTCP, events: x.events}
	x.attempts = append(x.attempts, a)
	if err := x.g.send(a, x.query); err != nil {
		a.over, a.events, x.err = true, nil, err // nobody else knows of a
		x.g.failed(a, err)
		return false
	}
	x.waiting++
	if len(x.attempts) == 1 && len(x.list.all) > 1 {
		x.hedgeAt = a.sent + int64(hedgeAfter(time.Duration(e.p95.Load())))
	}
	return true
}

// sample copies the question, now and then, to an endpoint that is too slow to be asked and so would stay slow for ever in
// our books. Nobody waits for it.
func (x *exchange) sample() {
	g := x.g
	g.extra.Lock()
	g.extra.hedges.asked()
	g.extra.samples.asked()
	may := len(x.list.all) > 1 && g.extra.samples.saved >= budgetCost
	g.extra.Unlock()
	if !may {
		return
	}
	for _, e := range x.list.all {
		if x.tried(e) || !e.wantsSample(x.began, sampleEvery) {
			continue
		}
		g.extra.Lock()
		may = g.extra.samples.take()
		g.extra.Unlock()
		if !may {
			return
		}
		g.stats.Samples.Add(1)
		a := &attempt{ep: e, question: x.question, purpose: forSample}
		if err := g.send(a, x.query); err != nil {
			g.failed(a, err)
		} else {
			g.udp.linger(a)
		}
		return
	}
}

// next returns when something is to be done if nothing comes.
func (x *exchange) next() int64 {
	at := x.end
	if x.hedgeAt != 0 {
		at = min(at, x.hedgeAt)
	}
	for _, a := range x.attempts {
		if !a.over && !a.overdue {
			at = min(at, x.overdueAt(a))
		}
	}
	return at
}

func (x *exchange) overdueAt(a *attempt) int64 {
	return a.sent + int64(overdueAfter(time.Duration(a.ep.p95.Load()), x.g.cfg.Budget))
}

// onTime hedges when the first endpoint is slow and notes what is overdue. It reports whether nothing is counted on any more.
func (x *exchange) onTime() (silent bool) {
	now, silent := x.g.now(), true
	if x.hedgeAt != 0 && now >= x.hedgeAt {
		x.hedgeAt = 0
		x.tryHedge()
	}
	for _, a := range x.attempts {
		if a.over || a.overdue {
			continue
		}
		if now < x.overdueAt(a) {
			silent = false
			continue
		}
		a.overdue = true
		x.g.stats.Lost.Add(1)
		x.g.moved(a.ep, a.ep.onLoss(a.sent))
	}
	return silent
}

// tryHedge asks a second endpoint, if one is in service and the budget of extra questions allows it.
func (x *exchange) tryHedge() {
	e := x.choose(false)
	if len(x.attempts) != 1 || e == nil || State(e.state.Load()) != Up {
		return
	}
	x.g.extra.Lock()
	may := x.g.extra.hedges.take()
	x.g.extra.Unlock()
	if may && x.ask(e, false) {
		x.g.stats.Hedges.Add(1)
		x.hedge = x.attempts[len(x.attempts)-1]
	}
}

// onReplaced goes over to the newest list. Attempts at endpoints that are gone are given up and replaced. After an outage the
// question is asked again, of an endpoint that is back: what was sent before is most likely lost, so its sockets are the
// first to go if there is no room.
func (x *exchange) onReplaced() {
	x.list = x.g.list.Load()
	again := x.list.recovered
	for _, a := range x.attempts {
		switch {
		case a.over:
		case a.ep.gone.Load():
			a.over, again = true, true
			x.waiting--
			x.g.stats.Replaced.Add(1)
			x.g.udp.linger(a)
		case x.list.recovered:
			x.g.udp.linger(a)
		}
	}
	if again {
		x.from, x.steps, x.dead, x.lastResort = len(x.attempts), 0, false, false
		x.step()
	}
}
