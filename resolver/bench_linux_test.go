package resolver

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/dnslet/dnslet/cache"
)

// What a hit costs, against the floor: an echo loop over recvmmsg and sendmmsg
// that looks at nothing. Both run in a process of their own, whose CPU time the
// kernel accounts exactly; the load comes from this process, from 128 source
// ports, over a mix of 80 % NXDOMAIN and 20 % A, half of it with EDNS.
//
//	go test -run '^$' -bench UDP -benchtime 200000x -count 10 ./resolver | benchstat -
//
// cpu-ns/op is the server's CPU per answer, the figure to compare; batch the
// datagrams per recvmmsg it saw. One outstanding: p50-us and p99-us are round
// trips as one client sees them.
func BenchmarkUDP(b *testing.B) {
	for _, load := range []struct {
		name string
		run  func(*loader, *testing.B)
	}{
		{"saturated", (*loader).saturate},
		{"20k", (*loader).pace},
		{"outstanding=1", (*loader).pingPong},
	} {
		for _, subject := range []string{"echo", "hit"} {
			b.Run(load.name+"/"+subject, func(b *testing.B) {
				p := startSubject(b, subject)
				l := newLoader(b, p.addr)
				l.warm(b)
				before := p.usage(b)
				b.ResetTimer()
				load.run(l, b)
				b.StopTimer()
				after := p.usage(b)
				n := float64(b.N)
				b.ReportMetric(float64(after.cpu-before.cpu)/n, "cpu-ns/op")
				if batches := after.batches - before.batches; batches > 0 {
					b.ReportMetric(n/float64(batches), "batch")
				}
				b.ReportMetric(float64(after.switches-before.switches)/n, "switches/op")
			})
		}
	}
}

func init() {
	children["echo"] = func() error { return benchChild(echoServer) }
	children["hit"] = func() error { return benchChild(hitServer) }
}

// subject is a server in a process of its own.
type subject struct {
	addr netip.AddrPort
	in   io.Writer
	out  *bufio.Reader
}

type usage struct {
	cpu      time.Duration
	batches  uint64
	switches int64
}

func startSubject(b testing.TB, name string) *subject {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+name)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close() // which ends the child
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	p := &subject{in: in, out: bufio.NewReader(out)}
	line, err := p.out.ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	p.addr = netip.MustParseAddrPort(strings.TrimSpace(line))
	return p
}

// usage asks the child what it has used.
func (p *subject) usage(b testing.TB) (u usage) {
	b.Helper()
	if _, err := fmt.Fprintln(p.in, "usage"); err != nil {
		b.Fatal(err)
	}
	if _, err := fmt.Fscan(p.out, (*int64)(&u.cpu), &u.batches, &u.switches); err != nil {
		b.Fatal(err)
	}
	return u
}

// benchChild runs a server, prints its address, and then a line of usage for
// every line it reads.
func benchChild(server func() (netip.AddrPort, func() uint64, error)) error {
	addr, batches, err := server()
	if err != nil {
		return err
	}
	fmt.Println(addr)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var ru unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
			return err
		}
		fmt.Println(ru.Utime.Nano()+ru.Stime.Nano(), batches(), ru.Nvcsw+ru.Nivcsw)
	}
	return nil
}

// echoServer sends every datagram back with QR set, by one thread as a hit is:
// the kernel's share.
func echoServer() (netip.AddrPort, func() uint64, error) {
	s := &Server{}
	u, err := s.listenUDP(netip.MustParseAddrPort("127.0.0.1:0"), 1)
	if err != nil {
		return netip.AddrPort{}, nil, err
	}
	r := u.readers[0]
	go func() {
		runtime.LockOSThread()
		for {
			n, errno := r.receive(unix.MSG_WAITFORONE)
			if errno != 0 {
				panic(errno)
			}
			r.desk.counts.batches.Add(1)
			for i := range n {
				b := r.buffer(i)[:r.recv[i].n]
				b[2] |= 0x80
				r.queue(i, i, b)
				r.reset(i)
			}
			r.flush(n)
		}
	}()
	return u.addr, r.desk.counts.batches.Load, nil
}

// hitServer is the whole resolver with every name of the mix in its cache once
// the loader has asked for it.
func hitServer() (netip.AddrPort, func() uint64, error) {
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), DefaultReaders()+2))
	c, err := cache.New(cache.Default())
	if err != nil {
		return netip.AddrPort{}, nil, err
	}
	zones, err := NewZones([]Zone{{Name: ".", Upstream: &scripted{}, Lifetimes: c.Lifetimes()}})
	if err != nil {
		return netip.AddrPort{}, nil, err
	}
	s, err := New(Config{Cache: c, Zones: zones, Limits: DefaultLimits(), Readers: DefaultReaders(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return netip.AddrPort{}, nil, err
	}
	if err := s.Listen([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}); err != nil {
		return netip.AddrPort{}, nil, err
	}
	go func() { _ = s.Run(context.Background()) }()
	return s.Addrs()[0], func() uint64 { st := s.Stats(); return st.Batches }, nil
}

// loader asks from many source ports.
type loader struct {
	fds     []int
	queries [][]byte
	next    int
	buf     [2048]byte
}

const loaderPorts = 128

func newLoader(b testing.TB, to netip.AddrPort) *loader {
	b.Helper()
	l := &loader{}
	for range loaderPorts {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { unix.Close(fd) })
		if err := unix.Connect(fd, sockaddr(to)); err != nil {
			b.Fatal(err)
		}
		tv := unix.NsecToTimeval(int64(2 * time.Second))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			b.Fatal(err)
		}
		l.fds = append(l.fds, fd)
	}
	for i := range 1000 {
		name := fmt.Sprintf("no-such-service-%d.production.svc.cluster.local.", i)
		if i%5 == 0 {
			name = fmt.Sprintf("service-%d.production.svc.cluster.local.", i)
		}
		m := question(name, dns.TypeA)
		if i%2 == 0 {
			m.SetEdns0(1232, false)
		}
		l.queries = append(l.queries, pack(b, m))
	}
	return l
}

func (l *loader) send(fd int) {
	q := l.queries[l.next]
	if l.next++; l.next == len(l.queries) {
		l.next = 0
	}
	unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&q[0])), uintptr(len(q)), 0, 0, 0)
}

func (l *loader) receive(b testing.TB, fd int) {
	n, _, errno := uintptr(0), uintptr(0), unix.EINTR
	for errno == unix.EINTR { // a socket with a timeout is not restarted by SA_RESTART
		n, _, errno = unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&l.buf[0])), uintptr(len(l.buf)), 0, 0, 0)
	}
	if errno != 0 || n < 12 || l.buf[2]&0x80 == 0 {
		b.Fatalf("no answer: %v, %d octets", errno, n)
	}
}

// warm asks every name once, so that all of them are in the cache.
func (l *loader) warm(b testing.TB) {
	for range l.queries {
		l.send(l.fds[0])
		l.receive(b, l.fds[0])
	}
}

// rounds sends b.N queries in rounds of up to size, each from another port, and
// waits for the answers of one round before it sends the next.
func (l *loader) rounds(b *testing.B, size int, every time.Duration) {
	start := time.Now()
	for done, round := 0, 0; done < b.N; round++ {
		n := min(size, b.N-done)
		for i := range n {
			l.send(l.fds[(round*size+i)%loaderPorts])
		}
		for i := range n {
			l.receive(b, l.fds[(round*size+i)%loaderPorts])
		}
		done += n
		if every > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(round+1) * every)))
		}
	}
}

func (l *loader) saturate(b *testing.B) { l.rounds(b, loaderPorts, 0) }

// pace asks 20,000 questions per second, 20 at a time.
func (l *loader) pace(b *testing.B) { l.rounds(b, 20, time.Millisecond) }

// pingPong asks one question at a time and notes the round trips.
func (l *loader) pingPong(b *testing.B) {
	rtts := make([]time.Duration, 0, b.N)
	for i := range b.N {
		fd := l.fds[i%loaderPorts]
		start := time.Now()
		l.send(fd)
		l.receive(b, fd)
		rtts = append(rtts, time.Since(start))
	}
	slices.Sort(rtts)
	b.ReportMetric(float64(rtts[len(rtts)/2].Nanoseconds())/1e3, "p50-us")
	b.ReportMetric(float64(rtts[len(rtts)*99/100].Nanoseconds())/1e3, "p99-us")
}

// What a hit costs without the kernel: parse, cache, reply, counters.
func BenchmarkAnswer(b *testing.B) {
	s := newServer(b, &scripted{})
	s.listen(b)
	s.run(b)
	l := newLoader(b, s.addr)
	l.warm(b)
	d := &desk{counts: s.stats.sheet()}
	buf := make([]byte, 0, udpBuffer)
	now := s.clock()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if reply, _ := s.answer(d, append(buf, l.queries[i%len(l.queries)]...), UDP, now); reply == nil {
			b.Fatal("no reply")
		}
	}
}
