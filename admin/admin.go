// Package admin serves the agent's local HTTP interface: /livez, /readyz, /metrics, /v1/* and /debug/pprof.
//
//	/livez        200 while the process makes progress; never depends on an upstream, so that an outage of cluster DNS
//	              does not get every node's agent restarted
//	/readyz       200 while a real question asked at our own sockets is answered, by UDP and by TCP; ?verbose lists
//	              the checks as kube-apiserver does
//	/metrics      for Prometheus; metrics.go names every metric
//	/v1/status    package api's Status as JSON
//	/v1/config    the configuration in force as YAML
//	/debug/pprof  Go's profiles, for callers on this machine only
//
// It answers GET and HEAD only and changes nothing. It does not decide what is healthy, does not know how the agent is
// put together, and keeps no state but its listener.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/dnslet/dnslet/api"
)

// Source is what the server asks the agent for. Every method may be called by many goroutines at once, at any time
// between New and the return of Run.
type Source interface {
	Live() error                       // nil while the process makes progress by itself
	Ready(ctx context.Context) []Check // asks its own sockets; the caller's deadline bounds it
	Status() api.Status                // complete, with SchemaVersion
	EffectiveConfig() ([]byte, error)  // YAML
	Metrics() Snapshot                 // what /metrics is made from
}

// Check is one condition of readiness, as Source.Ready found it. A failed one makes the agent not ready.
type Check = api.Check

// Config says where to listen and what to serve. All fields are required.
type Config struct {
	Listen netip.AddrPort
	Source Source
	Logger *slog.Logger
}

// Server is the HTTP server. Its methods are called in the order Listen, Run.
type Server struct {
	cfg  Config
	http *http.Server
	ln   net.Listener
}

// Time limits: a caller that does not read or write must not hold descriptors that DNS needs. Profiles and traces extend
// the write limit themselves by the seconds asked for.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 10 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 60 * time.Second
	readyTimeout  = 2 * time.Second // under the usual probe's 3 s, above the 1.8 s in which every question is answered
)

// New returns a server that does not listen yet.
func New(cfg Config) (*Server, error) {
	if cfg.Source == nil || cfg.Logger == nil || !cfg.Listen.IsValid() {
		return nil, errors.New("cannot make admin server: an address, a source and a logger are required")
	}
	s := &Server{cfg: cfg}
	s.http = &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug), // broken connections are the caller's matter
	}
	return s, nil
}

// Listen takes the address. The error of a taken one matches syscall.EADDRINUSE.
func (s *Server) Listen() error {
	ln, err := net.Listen("tcp", s.cfg.Listen.String())
	if err != nil {
		return fmt.Errorf("cannot listen for HTTP on %v: %w", s.cfg.Listen, err)
	}
	s.ln = ln
	return nil
}

// Addr is the address taken by Listen.
func (s *Server) Addr() netip.AddrPort { return s.ln.Addr().(*net.TCPAddr).AddrPort() }

// Run serves until ctx ends; then it lets requests under way finish for a moment and closes. It returns nil unless
// serving itself failed.
func (s *Server) Run(ctx context.Context) error {
	failed := make(chan error, 1)
	go func() { failed <- s.http.Serve(s.ln) }()
	select {
	case err := <-failed:
		return fmt.Errorf("cannot serve HTTP on %v: %w", s.cfg.Listen, err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if s.http.Shutdown(last) != nil {
		s.http.Close()
	}
	<-failed
	return nil
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+api.PathLive, s.live)
	mux.HandleFunc("GET "+api.PathReady, s.ready)
	mux.Handle("GET "+api.PathMetrics, promhttp.HandlerFor(registry(s.cfg.Source), promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET "+api.PathStatus, s.status)
	mux.HandleFunc("GET "+api.PathConfig, s.config)
	mux.Handle("GET /debug/pprof/", local(pprof.Index))
	mux.Handle("GET /debug/pprof/profile", local(pprof.Profile))
	mux.Handle("GET /debug/pprof/symbol", local(pprof.Symbol))
	mux.Handle("GET /debug/pprof/trace", local(pprof.Trace))
	mux.HandleFunc("GET /{$}", index)
	return mux
}

// local refuses callers that are not on this machine: a profile costs CPU and shows memory. The Host header is checked,
// too, so that a page in a browser on this machine cannot come in under a name that it made point to 127.0.0.1.
func local(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !from.Addr().Unmap().IsLoopback() || !loopbackHost(r.Host) {
			http.Error(w, "profiles are for callers on this machine only, by a loopback address", http.StatusForbidden)
			return
		}
		h(w, r)
	})
}

func loopbackHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

func (s *Server) live(w http.ResponseWriter, _ *http.Request) {
	if err := s.cfg.Source.Live(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	writeText(w, http.StatusOK, "ok\n")
}

// ready answers "ok", or the list of the checks when one failed or ?verbose asks for it.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	checks := s.cfg.Source.Ready(ctx)
	failed := false
	var b strings.Builder
	for _, c := range checks {
		if c.OK {
			fmt.Fprintf(&b, "[+]%s ok\n", c.Name)
			continue
		}
		failed = true
		fmt.Fprintf(&b, "[-]%s failed: %s\n", c.Name, c.Reason)
	}
	switch {
	case failed:
		writeText(w, http.StatusServiceUnavailable, b.String()+"readyz check failed\n")
	case r.URL.Query().Has("verbose"):
		writeText(w, http.StatusOK, b.String()+"readyz check passed\n")
	default:
		writeText(w, http.StatusOK, "ok\n")
	}
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	b, err := json.MarshalIndent(s.cfg.Source.Status(), "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(b, '\n'))
}

func (s *Server) config(w http.ResponseWriter, _ *http.Request) {
	b, err := s.cfg.Source.EffectiveConfig()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/yaml")
	w.Write(b)
}

func index(w http.ResponseWriter, _ *http.Request) {
	writeText(w, http.StatusOK, strings.Join([]string{
		"dnslet agent", "", api.PathLive, api.PathReady + "?verbose", api.PathMetrics, api.PathStatus, api.PathConfig, "/debug/pprof/ (from this machine)", "",
	}, "\n"))
}

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	w.Write([]byte(text))
}
