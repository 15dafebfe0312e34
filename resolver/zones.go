package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/dnslet/dnslet/cache"
	"github.com/dnslet/dnslet/upstream"
	"github.com/dnslet/dnslet/wire"
)

// Upstream answers what the cache cannot. *upstream.Group is the one in use;
// its doc comments are the contract.
type Upstream interface {
	// Exchange asks query and returns the response, in buf where it fits.
	// It returns by ctx's deadline.
	Exchange(ctx context.Context, query, buf []byte) ([]byte, upstream.Meta, error)
	// Healthy says whether any endpoint is not held for dead.
	Healthy() bool
	// Epoch grows when upstream recovers after none was healthy.
	Epoch() uint64
}

// Zone says how the names at and below Name are answered.
type Zone struct {
	Name      string // presentation form; "." takes what no other zone takes
	Upstream  Upstream
	Lifetimes cache.Lifetimes // of answers of this zone; start from Cache.Lifetimes
	Hosts     []Host          // names answered from here; they need not lie below Name
}

// Host is a name with fixed addresses. A and AAAA are answered with them, PTR
// of each address with the first host that has it, other types with NODATA.
type Host struct {
	Name      string
	Addresses []netip.Addr
	TTL       time.Duration
}

// Zones is an immutable snapshot of the routes of names; longest match wins.
type Zones struct {
	routes map[string]*route // folded wire name
	root   *route
	hosts  map[string]*host // folded wire name
}

// route is what a zone means for one question.
type route struct {
	name      string // folded wire name of the zone
	upstream  Upstream
	lifetimes cache.Lifetimes
}

func (r *route) differs(o *route) bool {
	if r == nil || o == nil {
		return r != o
	}
	return r.upstream != o.upstream || r.lifetimes != o.lifetimes
}

// NewZones checks and indexes zones. A zone "." is required, because every
// name must lead somewhere.
func NewZones(zones []Zone) (*Zones, error) {
	z := &Zones{routes: make(map[string]*route, len(zones)), hosts: make(map[string]*host)}
	for _, zone := range zones {
		if err := z.add(zone); err != nil {
			return nil, fmt.Errorf("cannot use zone %q: %w", zone.Name, err)
		}
	}
	z.root = z.routes["\x00"]
	if z.root == nil {
		return nil, errors.New(`cannot use zones: no zone "."`)
	}
	return z, nil
}

func (z *Zones) add(zone Zone) error {
	name, err := foldedName(zone.Name)
	if err != nil {
		return err
	}
	if zone.Upstream == nil {
		return errors.New("no upstream")
	}
	if z.routes[name] != nil {
		return errors.New("given twice")
	}
	if err := zone.Lifetimes.Validate(); err != nil {
		return err
	}
	z.routes[name] = &route{name: name, upstream: zone.Upstream, lifetimes: zone.Lifetimes}
	for _, h := range zone.Hosts {
		if err := z.addHost(h); err != nil {
			return fmt.Errorf("cannot use host %q: %w", h.Name, err)
		}
	}
	return nil
}

// match returns the route of the longest zone at or above the folded wire name.
func (z *Zones) match(name []byte) *route {
	if len(z.routes) == 1 {
		return z.root
	}
	for len(name) > 1 {
		if r := z.routes[string(name)]; r != nil {
			return r
		}
		name = name[1+int(name[0]):]
	}
	return z.root
}

// foldedName turns presentation form into the folded wire name that zones and
// hosts are found by.
func foldedName(text string) (string, error) {
	name, err := wire.AppendName(nil, text)
	if err != nil {
		return "", err
	}
	folded := make([]byte, len(name))
	wire.Fold(folded, name)
	return string(folded), nil
}
