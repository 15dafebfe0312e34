package resolver

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/dnslet/dnslet/cache"
	"github.com/dnslet/dnslet/upstream"
)

// Tests with a server in a process of its own, because what they do to it is
// done to a whole process: its memory measured, its descriptors taken away, its
// time stopped.

func init() {
	children["blackhole"] = func() error {
		group, err := blackHole()
		if err != nil {
			return err
		}
		return serveChild(group)
	}
	children["nofiles"] = func() error {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: childFiles, Max: childFiles}); err != nil {
			return err
		}
		return serveChild(&scripted{})
	}
	children["plain"] = func() error { return serveChild(&scripted{}) }
}

// childFiles is the child's limit of descriptors: its own dozen and a few
// connections.
const childFiles = 40

// blackHole is a group of three endpoints that take questions and say nothing,
// but for names below "known.", which the scripted upstream answers.
func blackHole() (Upstream, error) {
	cfg := upstream.DefaultConfig()
	cfg.Name = "black hole"
	for range 3 {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return nil, err
		}
		// Its queue fills up and what follows is dropped: as silent as it gets.
		cfg.Endpoints = append(cfg.Endpoints, upstream.Endpoint{Addr: conn.LocalAddr().(*net.UDPAddr).AddrPort()})
		keep = append(keep, conn)
	}
	g, err := upstream.New(cfg)
	if err != nil {
		return nil, err
	}
	go func() { _ = g.Run(context.Background()) }()
	return g, nil
}

// keep holds what must not be collected in a child.
var keep []any

// report is what a child says when it is asked.
type report struct {
	Stats    Stats
	Progress string
	RSS      int64 // bytes
}

// serveChild serves until its standard input ends.
func serveChild(u Upstream) error {
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), DefaultReaders()+2))
	cc := cache.Default()
	cc.Bytes = 8 << 20
	c, err := cache.New(cc)
	if err != nil {
		return err
	}
	zones, err := NewZones([]Zone{
		{Name: ".", Upstream: u, Lifetimes: c.Lifetimes()},
		{Name: "known.", Upstream: &scripted{}, Lifetimes: c.Lifetimes()},
	})
	if err != nil {
		return err
	}
	s, err := New(Config{Cache: c, Zones: zones, Limits: DefaultLimits(), Readers: DefaultReaders(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if err := s.Listen([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}); err != nil {
		return err
	}
	go func() { _ = s.Run(context.Background()) }()
	fmt.Println(s.Addrs()[0])
	status, err := os.Open("/proc/self/status")
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		r := report{Stats: s.Stats()}
		if err := s.Progress(); err != nil {
			r.Progress = err.Error()
		}
		b := make([]byte, 4096)
		n, _ := status.ReadAt(b, 0)
		if _, rest, ok := strings.Cut(string(b[:n]), "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				return err
			}
			r.RSS = kib << 10
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// child is a running one.
type child struct {
	testServer
	cmd *exec.Cmd
	in  io.Writer
	out *json.Decoder
}

func startChild(t *testing.T, name string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+name)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("child: %v", err)
		}
	})
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: cmd, in: in, out: json.NewDecoder(r)}
	c.addr = netip.MustParseAddrPort(strings.TrimSpace(line))
	return c
}

func (c *child) report(t *testing.T) (r report) {
	t.Helper()
	if _, err := fmt.Fprintln(c.in); err != nil {
		t.Fatal(err)
	}
	if err := c.out.Decode(&r); err != nil {
		t.Fatal(err)
	}
	return r
}

// Out of descriptors, TCP waits and comes back by itself; UDP notices nothing.
//
// Red when: the acceptor returns at an error, or does not wait between two.
func TestNoFileDescriptorsLeft(t *testing.T) {
	c := startChild(t, "nofiles")
	c.ask(t, "udp", question("www.example.", dns.TypeA))
	var held []net.Conn
	for range childFiles + 20 {
		conn, err := net.Dial("tcp", c.addr.String()) // the kernel accepts it into the queue
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		held = append(held, conn)
	}
	eventually(t, "descriptors run out", func() bool { return c.report(t).Stats.Events[AcceptFailed] > 0 })
	for range 50 {
		if r := c.ask(t, "udp", question("www.example.", dns.TypeA)); len(r.Answer) != 1 {
			t.Fatalf("UDP beside it: %v", r)
		}
	}
	writeTCP(t, held[0], question("www.example.", dns.TypeA)) // one that was accepted works on
	readTCP(t, held[0])
	before := c.report(t)
	if before.Progress != "" {
		t.Errorf("a waiting acceptor is no hang: %s", before.Progress)
	}
	for _, conn := range held {
		conn.Close()
	}
	start := time.Now()
	if r := c.ask(t, "tcp", question("www.example.", dns.TypeA)); len(r.Answer) != 1 {
		t.Errorf("got %v", r)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("TCP came back only after %v", took)
	}
	// It tried some ten times a second, not as fast as it can.
	if n := c.report(t).Stats.Events[AcceptFailed]; n > 200 {
		t.Errorf("%d failed tries", n)
	}
}

// SIGSTOP for longer than anybody waits, then SIGCONT: what was asked meanwhile
// is not asked upstream, and the next question is answered at once.
//
// Red when: stalled returns false.
func TestStoppedProcess(t *testing.T) {
	c := startChild(t, "plain")
	c.ask(t, "udp", question("known.example.", dns.TypeA))
	conn := c.dial(t, "udp")
	if err := c.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has stopped", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
		return err == nil && strings.Contains(string(stat), "State:\tT")
	})
	for i := range 50 {
		if _, err := conn.Write(pack(t, question(fmt.Sprintf("old%d.example.", i), dns.TypeA))); err != nil {
			t.Fatal(err)
		}
	}
	hit := question("known.example.", dns.TypeA)
	if _, err := conn.Write(pack(t, hit)); err != nil {
		t.Fatal(err)
	}
	<-time.After(pulseGap + 300*time.Millisecond) // the stop itself
	if err := c.cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 512)
	n, err := conn.Read(b)
	if err != nil || unpack(t, b[:n]).Id != hit.Id {
		t.Fatalf("first came %x (%v), want the cached name's answer", b[:n], err)
	}
	if r := c.ask(t, "udp", question("new.example.", dns.TypeA)); len(r.Answer) != 1 {
		t.Errorf("got %v", r)
	}
	if st := c.report(t).Stats; st.Events[QueueExpired] != 50 || st.Events[FlightStarted] != 2 {
		t.Errorf("%d expired, %d flights; want 50, 2", st.Events[QueueExpired], st.Events[FlightStarted])
	}
}

// flood sends distinct names from many sources at a rate, until end, and reads
// what comes back.
func flood(t *testing.T, to netip.AddrPort, sources, perSecond int, end time.Time) (sent int) {
	t.Helper()
	var conns []*net.UDPConn
	for i := range sources {
		local := &net.UDPAddr{IP: net.IPv4(127, 0, 1, byte(1+i))}
		conn, err := net.DialUDP("udp4", local, net.UDPAddrFromAddrPort(to))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
		go func() {
			b := make([]byte, 512)
			for {
				if _, err := conn.Read(b); err != nil {
					return
				}
			}
		}()
	}
	m := question("x.example.", dns.TypeA)
	const step = 5 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	for time.Now().Before(end) {
		<-tick.C
		for range perSecond * int(step) / int(time.Second) {
			m.Id = uint16(sent)
			m.Question[0].Name = fmt.Sprintf("n%d.flood.example.", sent)
			if _, err := conns[sent%sources].Write(pack(t, m)); err != nil {
				t.Fatal(err)
			}
			sent++
		}
	}
	return sent
}

// The short form of TestSoakBlackHole: counts, not bytes.
//
// Red when: a limit is not asked, or what it counts is not given back.
func TestFloodIntoABlackHoleIsBounded(t *testing.T) {
	c := startChild(t, "blackhole")
	c.ask(t, "udp", question("www.known.", dns.TypeA))
	flood(t, c.addr, 32, 10000, time.Now().Add(time.Second))
	l := DefaultLimits()
	for range 100 {
		if r := c.ask(t, "udp", question("www.known.", dns.TypeA)); len(r.Answer) != 1 {
			t.Fatalf("a cached name: %v", r)
		}
	}
	st := c.report(t).Stats
	if st.PeakWaiting > l.InFlight || st.Flights > l.InFlight || st.Waiting > l.InFlight || st.PeakWaiting < l.InFlight/2 {
		t.Errorf("%d waited at most, %d flights; want at most %d, and a flood that fills them", st.PeakWaiting, st.Flights, l.InFlight)
	}
	if st.Sum(Shed) == 0 {
		t.Error("nothing was shed")
	}
	eventually(t, "all places are free again", func() bool {
		st := c.report(t).Stats
		return st.Waiting == 0 && st.Flights == 0
	})
}

// All upstreams silent, 20,000 new names per second for a minute: resident
// memory settles below what Limits.Bytes and the cache's budget say, and cached
// names are answered all the while. Run by `make soak`.
//
// Red when: anything that a question leaves behind is not bounded.
func TestSoakBlackHole(t *testing.T) {
	if os.Getenv("DNSLET_SOAK") == "" {
		t.Skip("takes a minute; set DNSLET_SOAK=1 (make soak)")
	}
	c := startChild(t, "blackhole")
	c.ask(t, "udp", question("www.known.", dns.TypeA))
	base := c.report(t).RSS
	end := time.Now().Add(time.Minute)
	done := make(chan int)
	go func() { done <- flood(t, c.addr, 64, 20000, end) }()
	var half, whole, last int64
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	slow := 0
	for now := range tick.C {
		start := time.Now()
		if r, err := c.try("udp", question("www.known.", dns.TypeA)); err != nil || len(r.Answer) != 1 {
			t.Errorf("a cached name: %v (%v)", r, err)
		}
		if time.Since(start) > 500*time.Millisecond {
			slow++
		}
		last = c.report(t).RSS
		if whole = max(whole, last); now.Before(end.Add(-30 * time.Second)) {
			half = max(half, last)
		}
		if now.After(end) {
			break
		}
	}
	sent := <-done
	st := c.report(t).Stats
	limit := base + gcFactor*(DefaultLimits().Bytes()+8<<20)
	t.Logf("%d sent, %d received, %d flights, %d shed; resident: %d MiB at start, peak %d MiB in the first half, %d MiB in all, %d MiB at the end; ceiling %d MiB; %d slow hits",
		sent, st.Queries[UDP], st.Events[FlightStarted], st.Sum(Shed), base>>20, half>>20, whole>>20, last>>20, limit>>20, slow)
	if whole > limit {
		t.Errorf("resident %d MiB, above the ceiling of %d MiB", whole>>20, limit>>20)
	}
	if whole > half+half/10 {
		t.Errorf("resident memory grew from %d to %d MiB in the second half", half>>20, whole>>20)
	}
}

// gcFactor is how much more than what is live the collector lets the heap grow
// to with GOGC=100.
const gcFactor = 2
