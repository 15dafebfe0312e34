package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/dnslet/dnslet/api"
	"github.com/dnslet/dnslet/resolver"
)

// authority is a DNS server in this process: every name has the address that say returns, or none when that is invalid.
type authority struct {
	addr  netip.AddrPort
	hold  atomic.Pointer[chan struct{}] // answers wait until it is closed; nil: none does
	asked atomic.Int64
	mu    sync.Mutex
	names map[string]netip.Addr
	mute  atomic.Bool // answers nothing at all
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{names: map[string]netip.Addr{}}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.addr = pc.LocalAddr().(*net.UDPAddr).AddrPort()
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(a.serve)}
	ended := make(chan struct{})
	go func() { server.ActivateAndServe(); close(ended) }()
	t.Cleanup(func() { pc.Close(); <-ended })
	return a
}

// add makes a name known, at any time.
func (a *authority) add(name string, ip netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.names[name] = ip
}

func (a *authority) serve(w dns.ResponseWriter, q *dns.Msg) {
	a.asked.Add(1)
	if a.mute.Load() {
		return
	}
	if hold := a.hold.Load(); hold != nil {
		<-*hold // one goroutine for each question: it holds up nobody else's
	}
	r := new(dns.Msg).SetReply(q)
	a.mu.Lock()
	ip, ok := a.names[q.Question[0].Name]
	a.mu.Unlock()
	if !ok {
		ip = netip.MustParseAddr("192.0.2.1")
	}
	if q.Question[0].Qtype == dns.TypeA {
		r.Answer = append(r.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: ip.AsSlice()})
	}
	w.WriteMsg(r)
}

// running is an agent in this process.
type running struct {
	*Agent
	t    *testing.T
	stop context.CancelFunc
	end  chan error
	log  *logBuffer
}

// logBuffer is a log that a test may read while the agent writes.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// begin starts an agent and does not wait for anything. Free ports are taken unless set says otherwise.
func begin(t *testing.T, o Options) *running {
	t.Helper()
	r := &running{t: t, end: make(chan error, 1), log: &logBuffer{}}
	o.Log, o.Version = r.log, "v0.0.0-test"
	o.Set = append([]string{"admin.listen=127.0.0.1:0"}, o.Set...)
	if o.Getenv == nil {
		o.Getenv = func(string) string { return "" }
	}
	var err error
	if r.Agent, err = New(o); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() { r.end <- r.Run(ctx) }()
	t.Cleanup(func() {
		r.stop()
		if err, open := <-r.end; open && err != nil {
			t.Errorf("agent: %v\n%s", err, r.log)
		}
		if t.Failed() {
			t.Logf("log of the agent:\n%s", r.log)
		}
	})
	return r
}

// start starts an agent and waits until it is ready.
func start(t *testing.T, o Options) *running {
	t.Helper()
	r := begin(t, o)
	select {
	case <-r.WhenReady():
	case err := <-r.end:
		close(r.end)
		t.Fatalf("agent ended before it was ready: %v", err)
	case <-time.After(10 * time.Second):
		t.Fatalf("agent is not ready after 10 s:\n%s", r.log)
	}
	return r
}

// ended stops the agent and waits for its end.
func (r *running) ended() {
	r.t.Helper()
	r.stop()
	if err := <-r.end; err != nil {
		r.t.Errorf("agent ended with %v", err)
	}
	close(r.end)
}

// ask asks the agent for name's address by network and returns it as text, or the response code.
func (r *running) ask(network, name string) string {
	c := dns.Client{Net: network, Timeout: 3 * time.Second}
	reply, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), r.Addrs()[0].String())
	switch {
	case err != nil:
		return err.Error()
	case len(reply.Answer) == 1:
		return reply.Answer[0].(*dns.A).A.String()
	}
	return dns.RcodeToString[reply.Rcode]
}

// within calls cond until it returns true, and fails the test if that takes longer than limit.
func within(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		<-tick.C
	}
}

func (r *running) get(path string) (int, string) {
	r.t.Helper()
	resp, err := httpClient.Get("http://" + r.AdminAddr().String() + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func (r *running) status() *api.Status {
	r.t.Helper()
	c, err := api.NewClient(r.AdminAddr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	s, err := c.Status(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// Red when: start leaves out upstreams.run (never ready), or selfProbe accepts an empty answer.
func TestServesFromListenAndUpstreamAlone(t *testing.T) {
	up := newAuthority(t)
	r := start(t, Options{Set: []string{"listen=127.0.0.1:0", "upstream=" + up.addr.String()}})
	for _, network := range []string{"udp", "tcp"} {
		if got := r.ask(network, "web.example."); got != "192.0.2.1" {
			t.Errorf("by %s: %s", network, got)
		}
	}
	if code, body := r.get("/readyz?verbose"); code != 200 || !strings.Contains(body, "[+]udp "+r.Addrs()[0].String()+" ok") || !strings.Contains(body, "[+]tcp ") {
		t.Errorf("readyz: %d\n%s", code, body)
	}
	if code, body := r.get("/livez"); code != 200 {
		t.Errorf("livez: %d %s", code, body)
	}
	s := r.status()
	if s.State != api.OK || !s.Ready || s.Phase != api.Serving || s.Queries.UDP == 0 || s.Cache.Entries == 0 || s.Upstreams[0].Endpoints[0].Addr != up.addr.String() {
		t.Errorf("status: %+v", s)
	}
	if s.Interception.State != api.Skip || !strings.Contains(s.Interception.Reason, "intercept.vips") {
		t.Errorf("interception: %+v", s.Interception)
	}
	if p := s.Process; p.MaxProcs < resolver.DefaultReaders()+2 || p.LimitBytes != memoryCeiling(r.first) || p.FileLimit == 0 || p.ResidentBytes == 0 || p.OpenFiles == 0 {
		t.Errorf("process: %+v", p)
	}
	if _, body := r.get("/v1/status"); strings.Contains(body, "null") {
		t.Errorf("a list of the status document is null:\n%s", body)
	}
	if code, body := r.get("/v1/config"); code != 200 || !strings.Contains(body, up.addr.String()) {
		t.Errorf("the configuration in force: %d\n%s", code, body)
	}
	r.ended()
	if _, err := net.DialTimeout("tcp", r.AdminAddr().String(), time.Second); err == nil {
		t.Error("HTTP is served after the end")
	}
}

// Red when: bringUp does not wait for the first answer, or readyz leaves out the check of it.
func TestNotReadyBeforeAnUpstreamAnswered(t *testing.T) {
	up := newAuthority(t)
	up.mute.Store(true)
	r := begin(t, Options{Set: []string{"listen=127.0.0.1:0", "upstream=" + up.addr.String()}})
	within(t, 5*time.Second, "serving", func() bool { return r.serving.Load() })
	within(t, 5*time.Second, "the upstream was asked", func() bool { return up.asked.Load() > 0 })
	if code, body := r.get("/readyz"); code != 503 || !strings.Contains(body, "[-]upstream failed: no answer yet") {
		t.Errorf("readyz without an upstream: %d\n%s", code, body)
	}
	if code, _ := r.get("/livez"); code != 200 {
		t.Errorf("livez depends on the upstream: %d", code)
	}
	select {
	case <-r.WhenReady():
		t.Error("ready although no upstream has answered")
	default:
	}
	up.mute.Store(false)
	within(t, 5*time.Second, "ready", func() bool { code, _ := r.get("/readyz"); return code == 200 })
	<-r.WhenReady()
}

// Red when: start pushes upstreams.stop after the resolver, so that it comes first.
func TestStopUnderLoadAnswersEverything(t *testing.T) {
	up := newAuthority(t)
	r := start(t, Options{Set: []string{"listen=127.0.0.1:0", "upstream=" + up.addr.String(), "limits.tcpPerSource=1024"}})
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	up.hold.Store(&hold)
	const clients = 200
	answers := make(chan string, 2*clients)
	for i := range clients {
		for _, network := range []string{"udp", "tcp"} {
			go func() { answers <- r.ask(network, fmt.Sprintf("%s%d.example.", network, i)) }()
		}
	}
	within(t, 10*time.Second, "every question is in flight", func() bool { return r.server.Stats().Waiting == 2*clients })
	began := time.Now()
	time.AfterFunc(100*time.Millisecond, release) // the stop is under way then
	r.ended()
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("the stop took %v", d)
	}
	bad := map[string]int{}
	for range 2 * clients {
		if got := <-answers; got != "192.0.2.1" {
			bad[got]++
		}
	}
	if len(bad) > 0 {
		t.Errorf("lost at a stop: %v", bad)
	}
}

// httpClient keeps no connection: an agent that stops must not wait for ours.
var httpClient = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// Red when: apply does not call Self.Filter.
func TestUpstreamThatIsOurselvesIsDropped(t *testing.T) {
	up := newAuthority(t)
	r := start(t, Options{Set: []string{"listen=127.0.0.1:0", "upstream=169.254.53.53:53," + up.addr.String()}})
	u := r.status().Upstreams[0]
	if len(u.Endpoints) != 1 || u.Endpoints[0].Addr != up.addr.String() || u.State != api.Warn || len(u.Notes) != 1 {
		t.Errorf("upstream: %+v", u)
	}
	if n := strings.Count(r.log.String(), "169.254.53.53:53 is not asked"); n != 1 {
		t.Errorf("the log says %d times what was dropped", n)
	}
}

// Red when: taken returns the plain error, or portOwner reads the address in the wrong order of bytes.
func TestPortTakenNamesPortAndOwner(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, c := range []struct{ key, addr string }{{"listen", pc.LocalAddr().String()}, {"admin.listen", ln.Addr().String()}} {
		set := map[string]string{"listen": "127.0.0.1:0", "admin.listen": "127.0.0.1:0", "upstream": "127.0.0.1:1"}
		set[c.key] = c.addr
		var o Options
		for k, v := range set {
			o.Set = append(o.Set, k+"="+v)
		}
		o.Log, o.Getenv = io.Discard, func(string) string { return "" }
		a, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		err = a.Run(t.Context())
		var taken *PortTakenError
		if !errors.As(err, &taken) {
			t.Fatalf("%s: %v", c.key, err)
		}
		if taken.Key != c.key || taken.Addr.String() != c.addr || !strings.Contains(err.Error(), fmt.Sprintf("(process %d)", os.Getpid())) {
			t.Errorf("%s: key %q, address %v: %v", c.key, taken.Key, taken.Addr, err)
		}
	}
}

// Red when: a step of the life is not told, or STOPPING comes after the drain.
func TestServiceManagerHearsTheWholeLife(t *testing.T) {
	up := newAuthority(t)
	cm := &configMap{t: t, dir: t.TempDir()}
	cm.write(zoneConfig(up, "198.51.100.1"))
	sock := filepath.Join(t.TempDir(), "notify")
	m := manager(t, sock)
	r := start(t, Options{File: cm.file(), Getenv: env("NOTIFY_SOCKET", sock, "WATCHDOG_USEC", "40000")})
	next := func(want string) {
		t.Helper()
		for {
			got := heard(t, m)
			if got[0] == want {
				return
			}
			if got[0] != "WATCHDOG=1" {
				t.Fatalf("heard %q, want %s", got, want)
			}
		}
	}
	next("READY=1")
	next("WATCHDOG=1")
	cm.write(zoneConfig(up, "198.51.100.2"))
	next("RELOADING=1")
	next("READY=1")
	r.stop()
	next("STOPPING=1")
}

// Red when: watch tells the service manager without asking Progress.
func TestWatchdogFallsSilentWithoutProgress(t *testing.T) {
	a, err := New(Options{Log: io.Discard, Getenv: func(string) string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	log := &logBuffer{}
	a.log = newLogger(log, "text", &a.level)
	sock := filepath.Join(t.TempDir(), "notify")
	m := manager(t, sock)
	if a.notify, err = newNotifier(env("NOTIFY_SOCKET", sock, "WATCHDOG_USEC", "10000")); err != nil {
		t.Fatal(err)
	}
	defer a.notify.close()
	if a.cache, err = newCache(a.first.Cache); err != nil {
		t.Fatal(err)
	}
	u := newUpstreams(a.log, a.first)
	defer u.stop()
	zones, err := u.apply(a.first, a.first.Self(nil))
	if err != nil {
		t.Fatal(err)
	}
	// A resolver that does not run makes no progress.
	if a.server, err = resolver.New(resolver.Config{Cache: a.cache, Zones: zones, Limits: limitsOf(a.first.Limits), Readers: 1, Logger: a.log}); err != nil {
		t.Fatal(err)
	}
	g := newGroup()
	g.run(a.watch)
	within(t, 5*time.Second, "three beats are left out", func() bool { return strings.Count(log.String(), "no progress") >= 3 })
	g.stop()
	m.SetReadDeadline(time.Now())
	if n, err := m.Read(make([]byte, 512)); err == nil {
		t.Errorf("the service manager heard %d bytes of an agent that is stuck", n)
	}
}
