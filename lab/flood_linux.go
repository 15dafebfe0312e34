package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dnslet/dnslet/wire"
	"golang.org/x/net/ipv4"
)

// The sizes of a flood. A socket asks hundreds of questions per second: that is not what a stub resolver does, but this one
// machine has to ask as much as a node full of pods, and leave CPUs to answer.
const (
	floodSockets = 4    // per pod
	floodBatch   = 8    // datagrams per system call
	floodSlots   = 8192 // questions of a socket that are remembered while they wait; a power of two
	floodTick    = 2 * time.Millisecond
	// floodDebt bounds what is made up for when the machine had no time to send: a backlog is not a rate.
	floodDebt = 100 * time.Millisecond
	// floodPatience is how long answers are waited for at the end: longer than dnslet takes for the worst.
	floodPatience = 2500 * time.Millisecond
)

// nameKind is what has become of a name before it is asked for.
type nameKind uint8

const (
	knownName nameKind = iota // it was answered before the outage, and has an answer in a cache
	newName                   // nobody has asked for it
	againName                 // it is asked for again and again during the outage, in vain
)

// mix says which names a flood asks for: of every `of` questions, some for new names, some for againNames names in turn, the
// rest for knownNames others.
type mix struct {
	of, new, again uint64
}

const (
	knownNames = 200
	againNames = 500
)

// question returns the kind and the number of the i-th question. It is called by the sender alone.
func (f *flood) question(m *mix, i uint64) (nameKind, uint32) {
	kind := knownName
	// 7 divides no period in use: it spreads the kinds over the batches.
	switch r := i * 7 % m.of; {
	case r < m.new:
		kind = newName
	case r < m.new+m.again:
		kind = againName
	}
	n := f.turns[kind]
	f.turns[kind]++
	switch kind {
	case newName:
		return kind, againNames + n
	case againName:
		return kind, n % againNames
	}
	return kind, n % knownNames
}

// flood is a stream of single questions from the pods to the cluster DNS address, at a fixed rate whatever becomes of them,
// each asked once.
type flood struct {
	rate    int
	began   time.Time
	mix     atomic.Pointer[mix]
	turns   [3]uint32 // how many names of each kind were asked for
	sockets []*floodSocket
}

// asked is one question of a flood and what became of it.
type asked struct {
	at    time.Duration // since the flood began
	took  time.Duration // negative: no reply
	kind  nameKind
	rcode wire.RCode
	ede   wire.EDE
	// good: it was answered with records; foreign: by cluster DNS itself (see Server).
	good, foreign bool
}

// floodSocket is one socket, with the questions that wait for their answers, by ID.
type floodSocket struct {
	conn    net.Conn
	packets *ipv4.PacketConn

	mu      sync.Mutex
	next    uint16
	waiting [floodSlots]waitingQuestion
	done    []asked
}

type waitingQuestion struct {
	open   bool
	id     uint16
	kind   nameKind
	number uint32
	at     time.Duration
}

// newFlood opens the sockets. The caller calls run, or close.
func (c *Cluster) newFlood(rate int) (*flood, error) {
	f := &flood{rate: rate}
	for range floodSockets {
		for _, p := range c.Pods {
			conn, err := p.Dial("udp", netip.AddrPortFrom(VIP, 53))
			if err != nil {
				return nil, errors.Join(fmt.Errorf("cannot open a socket in %s: %w", p.Name, err), f.close())
			}
			f.sockets = append(f.sockets, &floodSocket{conn: conn, packets: ipv4.NewPacketConn(conn.(net.PacketConn))})
		}
	}
	return f, nil
}

func (f *flood) close() error {
	var errs []error
	for _, s := range f.sockets {
		errs = append(errs, s.conn.Close())
	}
	return errors.Join(errs...)
}

// ask changes what is asked for from now on.
func (f *flood) ask(m mix) { f.mix.Store(&m) }

// now is the flood's clock, by which questions are dated.
func (f *flood) now() time.Duration { return time.Since(f.began) }

// run asks until ctx ends, waits for what is still owed, and returns every question, in no order. started, which may be nil,
// is called when the clock has begun. It closes the sockets. A mix must have been set.
func (f *flood) run(ctx context.Context, started func()) []asked {
	f.began = time.Now()
	if started != nil {
		started()
	}
	var readers sync.WaitGroup
	for _, s := range f.sockets {
		readers.Go(func() { s.read(f) })
	}
	f.send(ctx)
	for _, s := range f.sockets {
		_ = s.conn.SetReadDeadline(time.Now().Add(floodPatience)) // an open socket takes a deadline
	}
	readers.Wait()
	_ = f.close() // nothing was to be written
	var all []asked
	for _, s := range f.sockets {
		s.mu.Lock()
		for i := range s.waiting {
			s.giveUp(&s.waiting[i])
		}
		all = append(all, s.done...)
		s.mu.Unlock()
	}
	return all
}

// send sends what is due, a batch to each socket in turn.
func (f *flood) send(ctx context.Context) {
	tick := time.NewTicker(floodTick)
	defer tick.Stop()
	batch := make([]ipv4.Message, floodBatch)
	for i := range batch {
		batch[i].Buffers = [][]byte{make([]byte, floodQuery)}
	}
	var sent, turn uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		due := uint64(f.now().Seconds() * float64(f.rate))
		sent = max(sent, due-min(due, uint64(floodDebt.Seconds()*float64(f.rate))))
		for sent < due {
			n := int(min(due-sent, floodBatch))
			s := f.sockets[turn%uint64(len(f.sockets))]
			s.write(f, batch[:n], sent)
			sent += uint64(n)
			turn++
		}
	}
}

// write asks the questions from the i-th on. What the kernel refuses is a question without a reply.
func (s *floodSocket) write(f *flood, batch []ipv4.Message, i uint64) {
	m := f.mix.Load()
	s.mu.Lock()
	now := f.now()
	for j := range batch {
		s.next++
		w := &s.waiting[s.next%floodSlots]
		s.giveUp(w)
		kind, number := f.question(m, i+uint64(j))
		*w = waitingQuestion{open: true, id: s.next, kind: kind, number: number, at: now}
		w.put(batch[j].Buffers[0])
	}
	s.mu.Unlock()
	for len(batch) > 0 {
		n, err := s.packets.WriteBatch(batch, 0)
		if err != nil {
			return
		}
		batch = batch[n:]
	}
}

// giveUp files a question whose place is needed. Called with mu held.
func (s *floodSocket) giveUp(w *waitingQuestion) {
	if w.open {
		s.done = append(s.done, asked{at: w.at, took: -1, kind: w.kind})
		w.open = false
	}
}

// read files answers until the socket's deadline, or its end.
func (s *floodSocket) read(f *flood) {
	batch := make([]ipv4.Message, 4*floodBatch)
	for i := range batch {
		batch[i].Buffers = [][]byte{make([]byte, wire.MaxUDP)}
	}
	var answer wire.Answer
	for {
		n, err := s.packets.ReadBatch(batch, 0)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return
		}
		// Any other error is an earlier question's, told by ICMP.
		now := f.now()
		s.mu.Lock()
		for i := range max(n, 0) {
			s.take(&answer, batch[i].Buffers[0][:batch[i].N], now)
		}
		s.mu.Unlock()
	}
}

// take files one answer. Called with mu held.
func (s *floodSocket) take(answer *wire.Answer, msg []byte, now time.Duration) {
	if len(msg) < wire.HeaderLen {
		return
	}
	w := &s.waiting[wire.MsgID(msg)%floodSlots]
	if !w.open || w.id != wire.MsgID(msg) {
		return // late, or twice
	}
	var query [floodQuery]byte
	w.put(query[:])
	if answer.Parse(msg, wire.Question(query[:])) != nil {
		return
	}
	const reserved = 0x0040 // Z, RFC 1035 section 4.1.1
	s.done = append(s.done, asked{at: w.at, took: now - w.at, kind: w.kind, rcode: answer.RCode, ede: answer.EDE,
		good: answer.RCode == wire.RCodeNoError && answer.ANCount > 0, foreign: answer.Flags&reserved != 0})
	w.open = false
}

// floodTemplate is a question for the A records of x00000000.example.net with an OPT of 1232 bytes, so that replies may say why.
var floodTemplate = []byte("\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01" +
	"\x09x00000000\x07example\x03net\x00\x00\x01\x00\x01" +
	"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00")

const (
	floodQuery = wire.HeaderLen + 23 + 4 + 11 // the template's length
	floodLabel = wire.HeaderLen + 1           // where its first label is
)

// put writes the question into b, floodQuery bytes.
func (w *waitingQuestion) put(b []byte) {
	copy(b, floodTemplate)
	binary.BigEndian.PutUint16(b, w.id)
	if w.kind == knownName {
		b[floodLabel] = 'k'
	}
	const digits = "0123456789abcdef"
	for i, n := 8, w.number; i > 0; i, n = i-1, n>>4 {
		b[floodLabel+i] = digits[n&15]
	}
}
