package upstream

import (
	"context"
	"errors"
)

// Group is the endpoints of one resolver service. All methods may be called concurrently.
type Group struct{}

// New checks c and returns a group that can be asked at once. It must be ended, by Run or by Close.
func New(c Config) (*Group, error) { return nil, errors.New("cannot build") }

// Run asks every endpoint once, so that the first answer does not wait for the first client, then probes what is
// suspected or held for dead until ctx ends, and closes the group.
func (g *Group) Run(ctx context.Context) error { return nil }

// Close ends the group: sockets and connections are closed, waiting Exchanges return ErrClosed. It may be repeated.
func (g *Group) Close() {}

// Exchange asks query, a whole DNS message with one question and any ID, and returns the answer and how it was had. The
// answer has the ID of query and is in buf where it fits, else newly allocated (64 KiB always suffice); query and buf
// are the caller's again when Exchange returns. It returns within Config.Budget, or when ctx ends.
//
// The answer matches the question (QR, opcode, the question itself, letters compared without case) and is well formed.
// It may be SERVFAIL or REFUSED when two endpoints said so or no other could be asked, and truncated only when TCP to
// that endpoint failed.
func (g *Group) Exchange(ctx context.Context, query, buf []byte) ([]byte, Meta, error) {
	return nil, Meta{}, ErrNoEndpoint
}

// Update replaces the endpoints. Those that stay keep what is known of them; those that go are left at once: a question
// that waits for one is asked elsewhere. It fails, and changes nothing, if an endpoint is unusable.
func (g *Group) Update(endpoints []Endpoint) error { return nil }

// Healthy reports whether some endpoint is not held for dead. The last resort does not count.
func (g *Group) Healthy() bool { return false }

// Epoch counts the outages that have ended: it grows when an endpoint or the last resort answers after none was healthy
// or after an Exchange has failed for want of any answer. A failure remembered from an earlier epoch says nothing.
func (g *Group) Epoch() uint64 { return 0 }

// FirstAnswer returns a channel that is closed at the first valid response ever, to a question or a probe.
func (g *Group) FirstAnswer() <-chan struct{} { return nil }

// Status describes every endpoint, the last resort at the end.
func (g *Group) Status() []EndpointStatus { return nil }
