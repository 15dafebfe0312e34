package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// fillSlot puts a request into slot i of r as recvmmsg would.
func fillSlot(r *udpReader, i int, pkt []byte, from netip.AddrPort) {
	copy(r.buffer(i), pkt)
	r.recv[i].n = uint32(len(pkt))
	r.recv[i].hdr.Flags = 0
	r.recv[i].hdr.Namelen = unix.SizeofSockaddrInet4
	port := from.Port()
	r.addrs[i].raw = unix.RawSockaddrInet6{Family: unix.AF_INET}
	sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&r.addrs[i].raw))
	sa.Port = port>>8 | port<<8
	sa.Addr = from.Addr().As4()
}

// A hit allocates nothing, from the parse to the system call that sends it.
//
// Red when: anything on the way escapes, for instance a reply kept in an interface.
func TestHitsAllocateNothing(t *testing.T) {
	s := newServer(t, &scripted{})
	s.listen(t)
	s.run(t)
	conn := s.dial(t, "udp")
	from := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	var pkts [][]byte
	for i := range batch {
		m := question([]string{"www.example.", "nowhere.example."}[i%2], []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeMX}[i%3])
		if i%4 > 1 {
			m.SetEdns0(1232, i%8 > 5)
		}
		s.ask(t, "udp", m)
		pkts = append(pkts, pack(t, m))
	}
	r := newUDPReader(s.Server, s.udp[0], 0)
	now := s.clock()
	before := s.Stats()
	if n := testing.AllocsPerRun(100, func() {
		for i, p := range pkts {
			fillSlot(r, i, p, from)
		}
		r.batch(len(pkts), now)
	}); n != 0 {
		t.Errorf("%v allocations per batch of %d hits, want 0", n, len(pkts))
	}
	after := s.Stats()
	if hits := after.Sum(Hit) - before.Sum(Hit); hits != 101*batch || after.Events[SendFailed] != 0 {
		t.Errorf("%d of %d were hits, %d sends failed", hits, 101*batch, after.Events[SendFailed])
	}
	d := &desk{counts: &s.stats.shared}
	buf := make([]byte, 0, tcpBatch)
	if n := testing.AllocsPerRun(100, func() {
		for _, p := range pkts {
			if reply, ask := s.answer(d, append(buf, p...), TCP, now); ask || len(reply) == 0 {
				panic("not a hit")
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations by TCP, want 0", n)
	}
}

// An error of sendmmsg costs the packet it belongs to and no other. (Port 0 is
// refused by EINVAL before anything is sent, as a firewall refuses by EPERM.)
//
// Red when: flush gives up at an error, or takes the rest of the batch for sent.
func TestOneUnsendableReplyCostsOnlyItself(t *testing.T) {
	for _, bad := range [][]int{{0}, {3}, {batch - 1}, {0, 1, 5, 6, batch - 1}} {
		t.Run(fmt.Sprint(bad), func(t *testing.T) {
			s := newServer(t, &scripted{})
			s.listen(t)
			s.run(t)
			conn := s.dial(t, "udp")
			from := conn.LocalAddr().(*net.UDPAddr).AddrPort()
			r := newUDPReader(s.Server, s.udp[0], 0)
			want := map[uint16]bool{}
			for i := range batch {
				m := question(ProbeName, dns.TypeA)
				m.Id = uint16(i)
				want[m.Id] = true
				fillSlot(r, i, pack(t, m), from)
			}
			for _, i := range bad {
				delete(want, uint16(i))
				(*unix.RawSockaddrInet4)(unsafe.Pointer(&r.addrs[i].raw)).Port = 0
			}
			r.batch(batch, s.clock())
			b := make([]byte, 512)
			for len(want) > 0 {
				n, err := conn.Read(b)
				if err != nil {
					t.Fatalf("%d replies never came: %v", len(want), err)
				}
				m := unpack(t, b[:n])
				if !want[m.Id] {
					t.Fatalf("reply %d came twice or should not have", m.Id)
				}
				delete(want, m.Id)
			}
			if st := s.Stats(); st.Events[SendFailed] != uint64(len(bad)) {
				t.Errorf("%d counted, want %d", st.Events[SendFailed], len(bad))
			}
		})
	}
}

func TestSendErrorsAreTold(t *testing.T) {
	for err, want := range map[error]Event{
		unix.EPERM: SendRefused, unix.EACCES: SendRefused,
		unix.ENOBUFS: SendNoBuffer, unix.EAGAIN: SendNoBuffer,
		unix.ENETUNREACH: SendFailed, unix.EINVAL: SendFailed,
	} {
		if got := sendEvent(err); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}

// What is queued when the end begins is answered, hits and misses.
//
// Red when: a reader that is told to end does not drain, or Drain closes before
// flights have landed.
func TestDrainAnswersWhatIsQueued(t *testing.T) {
	const n = 200
	hang := make(chan struct{})
	s := runServer(t, &scripted{}, withZone(Zone{Name: "hang.example.", Upstream: &hanging{hang: hang}}))
	conn := s.dial(t, "udp")
	if err := conn.(*net.UDPConn).SetReadBuffer(1 << 20); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(pack(t, question("www.hang.example.", dns.TypeA))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the reader hangs", func() bool { return s.Stats().Waiting == 1 })
	want := map[uint16]bool{}
	for i := range n {
		m := question(fmt.Sprintf("n%d.example.", i%100), dns.TypeA)
		m.Id = uint16(i)
		want[m.Id] = true
		if _, err := conn.Write(pack(t, m)); err != nil {
			t.Fatal(err)
		}
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		s.Drain(context.Background())
	}()
	<-s.udp[0].ended
	close(hang)
	<-drained
	b := make([]byte, 512)
	for len(want) > 0 {
		k, err := conn.Read(b)
		if err != nil {
			t.Fatalf("%d of %d replies never came: %v", len(want), n, err)
		}
		m := unpack(t, b[:k])
		if len(m.Answer) != 1 {
			t.Fatalf("got %v", m)
		}
		delete(want, m.Id)
	}
	if _, err := conn.Write([]byte("x")); err == nil {
		// The answer for the name that hung may still be there.
		for err == nil {
			_, err = conn.Read(b)
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("after Drain: %v, want refused", err)
		}
	}
}

// After a stop of the whole process what lies in the queue is old: hits are
// answered, as that is cheap; nobody asks upstream for those who have gone.
//
// Red when: the end of the queue is not looked for, or behind is forgotten after the
// first batch.
func TestQueueIsOldAfterAStall(t *testing.T) {
	u := &scripted{}
	s := newServer(t, u)
	s.listen(t)
	conn := s.dial(t, "udp")
	fill := func(name string, k int) {
		for i := range k {
			m := question(fmt.Sprintf(name, i), dns.TypeA)
			if _, err := conn.Write(pack(t, m)); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill("old%d.example.", 5*batch+1)
	fill("probe%.0d.dnslet.invalid.", 1)
	s.pulse.last.Store(s.clock() - int64(time.Minute) - 1)
	s.pulse.beat(s.clock() + int64(pulseGap)) // as after SIGCONT
	s.run(t)
	b := make([]byte, 512)
	if k, err := conn.Read(b); err != nil || unpack(t, b[:k]).Question[0].Name != ProbeName {
		t.Fatalf("first came %v (%v), want the probe's answer", b[:k], err)
	}
	if n := u.total(); n != 0 {
		t.Errorf("upstream was asked for %d of the old ones", n)
	}
	eventually(t, "the queue has been read", func() bool { return s.Stats().Queries[UDP] == 5*batch+2 })
	eventually(t, "all are counted", func() bool {
		st := s.Stats()
		return st.Events[QueueExpired] == 5*batch+1 && st.Sum(Dropped) == 5*batch+1
	})
	if r := s.ask(t, "udp", question("new.example.", dns.TypeA)); len(r.Answer) != 1 {
		t.Errorf("afterwards: %v", r)
	}
}

// Red when: stalled does not look at the pulse's last beat, or not at when the stall ended.
func TestStallIsNoticedByWhoeverWakesFirst(t *testing.T) {
	p := pulse{limit: pulseGap}
	var seen uint64
	second := int64(time.Second)
	p.beat(second)
	if p.stalled(second+int64(beatEvery), &seen) {
		t.Error("a beat's interval is no stall")
	}
	if !p.stalled(10*second, &seen) {
		t.Error("the reader woke first and saw nothing")
	}
	p.beat(10*second + 1)
	if p.stalled(10*second+2, &seen) {
		t.Error("the same stall twice")
	}
	p.beat(20 * second)
	if !p.stalled(20*second, &seen) {
		t.Error("the pulse woke first and the reader saw nothing")
	}
	p.beat(30 * second)
	if p.stalled(31*second, &seen) {
		t.Error("what comes a second after the stall counts as old")
	}
}

// Red when: receive does not tell a full batch, or nobody waits for the call.
func TestHelpersAnswerWhatOneReaderCannot(t *testing.T) {
	s := newServer(t, &scripted{})
	s.listen(t)
	s.run(t)
	s.ask(t, "udp", question("www.example.", dns.TypeA))
	conn := s.dial(t, "udp")
	pkt := pack(t, question("www.example.", dns.TypeA))
	go func() {
		b := make([]byte, 512)
		for {
			if _, err := conn.Read(b); err != nil {
				return
			}
		}
	}()
	helped := func() bool {
		for range 20 * batch {
			if _, err := conn.Write(pkt); err != nil {
				t.Fatal(err)
			}
		}
		return s.udp[0].readers[1].desk.counts.batches.Load() > 0
	}
	eventually(t, "a helper has read", helped)
	if err := s.Progress(); err != nil {
		t.Error(err)
	}
}

// Red when: the socket is bound to the unspecified address or uses PKTINFO.
func TestReplySourceIsTheAddressAsked(t *testing.T) {
	s := newServer(t, &scripted{})
	addrs := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.2:0"), netip.MustParseAddrPort("127.0.0.3:0"), netip.MustParseAddrPort("[::1]:0")}
	if err := s.Listen(addrs); err != nil {
		t.Fatal(err)
	}
	s.run(t)
	for i, addr := range s.Addrs() {
		if addr.Addr() != addrs[i].Addr() || addr.Port() == 0 {
			t.Fatalf("bound %v for %v", addr, addrs[i])
		}
		network := "udp4"
		if addr.Addr().Is6() {
			network = "udp6"
		}
		conn, err := net.ListenUDP(network, nil) // not connected: any source is let in
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		for _, name := range []string{ProbeName, "www.example."} { // from the reader, from a flight
			if _, err := conn.WriteToUDPAddrPort(pack(t, question(name, dns.TypeA)), addr); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 512)
			_, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil || netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != addr {
				t.Errorf("%s asked of %v was answered by %v (%v)", name, addr, from, err)
			}
		}
	}
}

// Red when: activity is not set around a batch, or Progress does not look at it.
func TestProgressSeesAReaderThatHangs(t *testing.T) {
	s := newServer(t, &scripted{})
	if err := s.Progress(); err == nil {
		t.Error("progress before Run")
	}
	s.listen(t)
	s.run(t)
	eventually(t, "it runs", func() bool { return s.Progress() == nil })
	for _, act := range []*activity{&s.udp[0].readers[0].act, &s.udp[0].readers[1].act, &s.tcp[0].act} {
		act.busy(s.clock() - int64(stallAfter) + int64(50*time.Millisecond))
		if err := s.Progress(); err != nil && act.since.Load() > s.clock()-int64(stallAfter) {
			t.Errorf("busy for less than %v: %v", stallAfter, err)
		}
		act.busy(s.clock() - 2*int64(stallAfter))
		if err := s.Progress(); err == nil {
			t.Error("a hang goes unseen")
		}
		act.idle()
	}
	if err := s.Progress(); err != nil {
		t.Error(err)
	}
}

// Red when: a reader's real hang leaves its word idle.
func TestProgressSeesARealHang(t *testing.T) {
	hang := make(chan struct{})
	s := runServer(t, &scripted{}, withZone(Zone{Name: "hang.example.", Upstream: &hanging{hang: hang}}))
	s.ask(t, "udp", question("www.example.", dns.TypeA))
	if _, err := s.dial(t, "udp").Write(pack(t, question("www.hang.example.", dns.TypeA))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the hang is seen", func() bool { return s.Progress() != nil })
	close(hang)
	eventually(t, "it is over", func() bool { return s.Progress() == nil })
}

// hanging hangs the reader that asks for its epoch.
type hanging struct {
	scripted
	hang chan struct{}
}

func (h *hanging) Epoch() uint64 {
	<-h.hang
	return 0
}

// Red when: listen keeps the UDP socket whose TCP port was taken.
func TestListenIsAllOrNothing(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	taken := ln.Addr().(*net.TCPAddr).AddrPort()
	s := newServer(t, &scripted{})
	if err := s.Listen([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0"), taken}); err == nil {
		t.Fatal("a taken port was bound")
	}
	if len(s.Addrs()) != 0 {
		t.Errorf("still bound: %v", s.Addrs())
	}
	u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(taken))
	if err != nil {
		t.Fatalf("the UDP port is not free again: %v", err)
	}
	u.Close()
	for _, bad := range []string{"0.0.0.0:53", "[::]:53", "[::ffff:127.0.0.1]:53"} {
		if err := s.Listen([]netip.AddrPort{netip.MustParseAddrPort(bad)}); err == nil {
			t.Errorf("%s was bound", bad)
		}
	}
	s.run(t)
	// An address that is added while it runs is served at once.
	s.listen(t)
	s.ask(t, "udp", question("www.example.", dns.TypeA))
	s.ask(t, "tcp", question("www.example.", dns.TypeA))
}
