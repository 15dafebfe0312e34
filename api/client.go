package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ErrUnreachable is what errors.Is finds when no agent answered at all: nothing listens there, or what listens does not
// speak HTTP. An agent that answers with an error is reached.
var ErrUnreachable = errors.New("agent cannot be reached")

// maxDocument bounds what the client reads: a document of an agent with hundreds of endpoints is some 100 KiB, and
// whatever else may listen at the address must not fill our memory.
const maxDocument = 8 << 20

// Client reads the documents of one agent. It is safe for concurrent use.
type Client struct {
	base string
	http *http.Client
}

// NewClient returns a client of the agent at addr: "HOST:PORT", or an "http://" URL. Nothing is connected yet.
func NewClient(addr string) (*Client, error) {
	if !strings.Contains(addr, "://") {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, fmt.Errorf("cannot use agent address %q: want HOST:PORT", addr)
		}
		addr = "http://" + addr
	}
	u, err := url.Parse(addr)
	if err != nil || u.Scheme != "http" || u.Host == "" {
		return nil, fmt.Errorf("cannot use agent address %q: want HOST:PORT or http://HOST:PORT", addr)
	}
	return &Client{
		base: "http://" + u.Host,
		// The agent is on this machine or one hop away: no proxy, no redirects, and an answer soon or not at all.
		http: &http.Client{
			Timeout:       5 * time.Second,
			Transport:     &http.Transport{Proxy: nil, DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Addr is the address that the client asks, as HOST:PORT.
func (c *Client) Addr() string { return strings.TrimPrefix(c.base, "http://") }

// Status reads /v1/status.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	b, err := c.get(ctx, PathStatus)
	if err != nil {
		return nil, err
	}
	var s Status
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%w: what answers at %s is no dnslet agent: %w", ErrUnreachable, c.Addr(), err)
	}
	if s.SchemaVersion > SchemaVersion {
		return nil, fmt.Errorf("cannot read status of the agent at %s: it speaks schema %d and this program %d; use the agent's own version", c.Addr(), s.SchemaVersion, SchemaVersion)
	}
	if s.SchemaVersion == 0 {
		return nil, fmt.Errorf("%w: what answers at %s is no dnslet agent", ErrUnreachable, c.Addr())
	}
	return &s, nil
}

// Config reads /v1/config: the effective configuration as the agent prints it (YAML).
func (c *Client) Config(ctx context.Context) ([]byte, error) { return c.get(ctx, PathConfig) }

func (c *Client) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot ask agent at %s: %w", c.Addr(), err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w", ErrUnreachable, c.Addr(), cause(err))
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument))
	if err != nil {
		return nil, fmt.Errorf("%w at %s: %w", ErrUnreachable, c.Addr(), cause(err))
	}
	if resp.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("%w: what answers at %s is no dnslet agent (no %s there)", ErrUnreachable, c.Addr(), path)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("cannot read %s of the agent at %s: %s", path, c.Addr(), resp.Status)
	}
	return b, nil
}

// cause strips the method and the URL that net/http puts before an error: the address is named already.
func cause(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}
