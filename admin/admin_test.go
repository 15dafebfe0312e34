package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dnslet/dnslet/api"
)

// fakeAgent is a Source that says what it is told to.
type fakeAgent struct {
	live    error
	checks  []Check
	status  api.Status
	config  string
	metrics Snapshot
}

func (f *fakeAgent) Live() error                      { return f.live }
func (f *fakeAgent) Ready(context.Context) []Check    { return f.checks }
func (f *fakeAgent) Status() api.Status               { return f.status }
func (f *fakeAgent) EffectiveConfig() ([]byte, error) { return []byte(f.config), nil }
func (f *fakeAgent) Metrics() Snapshot                { return f.metrics }

func server(t *testing.T, f *fakeAgent) *Server {
	t.Helper()
	s, err := New(Config{Listen: netip.MustParseAddrPort("127.0.0.1:0"), Source: f, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ask asks as if from the address and by the Host given.
func ask(s *Server, method, path, from, host string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.RemoteAddr, r.Host = from, host
	w := httptest.NewRecorder()
	s.http.Handler.ServeHTTP(w, r)
	return w
}

// Red when: a failed check leaves the code at 200, or the marks change.
func TestReadyzSpeaksAsKubeAPIServerDoes(t *testing.T) {
	ok := []Check{{Name: "udp 127.0.0.1:53", OK: true}, {Name: "upstream", OK: true}}
	bad := []Check{ok[0], {Name: "upstream", Reason: "no answer yet"}}
	for _, c := range []struct {
		path   string
		checks []Check
		code   int
		body   string
	}{
		{"/readyz", ok, 200, "ok\n"},
		{"/readyz?verbose", ok, 200, "[+]udp 127.0.0.1:53 ok\n[+]upstream ok\nreadyz check passed\n"},
		{"/readyz", bad, 503, "[+]udp 127.0.0.1:53 ok\n[-]upstream failed: no answer yet\nreadyz check failed\n"},
		{"/readyz?verbose", bad, 503, "[+]udp 127.0.0.1:53 ok\n[-]upstream failed: no answer yet\nreadyz check failed\n"},
	} {
		w := ask(server(t, &fakeAgent{checks: c.checks}), "GET", c.path, "127.0.0.1:1", "127.0.0.1:9553")
		if w.Code != c.code || w.Body.String() != c.body {
			t.Errorf("%s: %d %q, want %d %q", c.path, w.Code, w.Body, c.code, c.body)
		}
	}
}

// Red when: livez looks at the checks of readiness.
func TestLivezIsAboutTheProcessAlone(t *testing.T) {
	down := []Check{{Name: "upstream", Reason: "all held for dead"}}
	if w := ask(server(t, &fakeAgent{checks: down}), "GET", "/livez", "127.0.0.1:1", "x"); w.Code != 200 {
		t.Errorf("livez with a dead upstream: %d %s", w.Code, w.Body)
	}
	if w := ask(server(t, &fakeAgent{live: errors.New("reader 0 is stuck")}), "GET", "/livez", "127.0.0.1:1", "x"); w.Code != 503 || !strings.Contains(w.Body.String(), "reader 0 is stuck") {
		t.Errorf("livez with a stuck reader: %d %s", w.Code, w.Body)
	}
}

// Red when: local() lets everybody pass, or does not look at the Host.
func TestProfilesAreForThisMachine(t *testing.T) {
	s := server(t, &fakeAgent{})
	for _, c := range []struct {
		from, host string
		code       int
	}{
		{"127.0.0.1:4000", "127.0.0.1:9553", 200},
		{"[::1]:4000", "[::1]:9553", 200},
		{"[::ffff:127.0.0.1]:4000", "localhost:9553", 200},
		{"10.0.0.5:4000", "127.0.0.1:9553", 403},
		{"127.0.0.1:4000", "evil.example:9553", 403},
	} {
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1"} {
			if w := ask(s, "GET", path, c.from, c.host); w.Code != c.code {
				t.Errorf("%s from %s by %s: %d, want %d", path, c.from, c.host, w.Code, c.code)
			}
		}
	}
}

// Red when: a handler is registered without its method, or an unknown path is answered by the index.
func TestOnlyKnownReadsAreServed(t *testing.T) {
	s := server(t, &fakeAgent{})
	for _, c := range []struct {
		method, path string
		code         int
	}{
		{"GET", "/", 200}, {"HEAD", "/livez", 200}, {"GET", "/nosuch", 404}, {"GET", "/v1/nosuch", 404}, {"GET", "/metrics/x", 404},
		{"POST", "/livez", 405}, {"PUT", "/v1/config", 405}, {"DELETE", "/v1/status", 405}, {"POST", "/debug/pprof/profile", 405},
	} {
		if w := ask(s, c.method, c.path, "127.0.0.1:1", "127.0.0.1"); w.Code != c.code {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, w.Code, c.code)
		}
	}
}

// Red when: a time limit is left at 0 (none).
func TestServerHasTimeLimits(t *testing.T) {
	h := server(t, &fakeAgent{}).http
	if h.ReadHeaderTimeout <= 0 || h.ReadTimeout <= 0 || h.WriteTimeout <= 0 || h.IdleTimeout <= 0 || h.MaxHeaderBytes <= 0 {
		t.Errorf("limits: %+v", h)
	}
}

// Red when: Run returns without Shutdown, or Listen hides the cause of its error.
func TestServeOnLoopback(t *testing.T) {
	f := &fakeAgent{status: api.Status{SchemaVersion: api.SchemaVersion, Version: "v1.2.3", Host: "node-7"}, config: "listen: []\n", metrics: full()}
	s := server(t, f)
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()

	client, err := api.NewClient(s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&f.status, got); diff != "" {
		t.Errorf("status differs (-sent +read):\n%s", diff)
	}
	if b, err := client.Config(t.Context()); err != nil || string(b) != f.config {
		t.Errorf("config: %q, %v", b, err)
	}
	resp, err := http.Get("http://" + s.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	for _, want := range []string{"dnslet_build_info{", "dnslet_dns_miss_duration_seconds_bucket{", "go_goroutines ", "process_open_fds "} {
		if !strings.Contains(string(body), want) {
			t.Errorf("/metrics has no %s", want)
		}
	}

	second, err := New(Config{Listen: s.Addr(), Source: f, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Listen(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("the second server on one port: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := client.Status(t.Context()); !errors.Is(err, api.ErrUnreachable) {
		t.Errorf("status after the end: %v", err)
	}
}

// Red when: a status document leaves out an empty list that readers iterate, or is not JSON.
func TestStatusIsOneDocument(t *testing.T) {
	w := ask(server(t, &fakeAgent{status: api.Status{SchemaVersion: 1}}), "GET", "/v1/status", "127.0.0.1:1", "x")
	var doc map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || doc["schemaVersion"] != 1.0 || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("status document: %v, %v, %s", doc, err, w.Header())
	}
}
