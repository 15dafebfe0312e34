package intercept

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Cleanup removes every trace that an interception can leave in this network namespace, whatever its settings were: tables,
// known by their sets, and routes, known by their protocol. It returns what it removed, or would remove when dry is true.
// What belongs to a live agent stays, and the error then wraps ErrOwned: stop the agent, which removes it. Calling it again is
// harmless.
func Cleanup(dry bool) ([]string, error) {
	nft, err := dialNetfilter()
	if err != nil {
		return nil, fmt.Errorf("cannot clean up: %w", err)
	}
	defer nft.close()
	dead, live, err := nft.ours()
	if err != nil {
		return nil, fmt.Errorf("cannot clean up: %w", err)
	}
	if len(live) > 0 {
		err = fmt.Errorf("cannot clean up: %w: %s; stop that agent (its pod or its unit): the kernel removes the table with it", ErrOwned, join(live))
	}
	var done []string
	var b batch
	for _, l := range dead {
		done = append(done, l.String())
		b.uninstall(l.name, l.family)
	}
	if !dry {
		if err := nft.transact(&b); err != nil {
			return nil, fmt.Errorf("cannot clean up: %w", err)
		}
	}
	if len(live) > 0 { // the routes are the live agent's
		return done, err
	}
	gone, err := cleanRoutes(dry)
	if err != nil {
		err = fmt.Errorf("cannot clean up: %w", err)
	}
	return append(done, gone...), err
}

// ours returns the tables of interceptions: those that may go, and in words those of live agents.
func (c *conn) ours() (dead []leftover, live []string, err error) {
	sets, err := c.setsOf()
	if err != nil {
		return nil, nil, err
	}
	tables, err := c.tables()
	if err != nil {
		return nil, nil, err
	}
	for _, l := range tables {
		if !known(sets[leftover{name: l.name, family: l.family}]) {
			continue
		}
		alive, err := c.aliveIn(l.name, l.family)
		switch {
		case err != nil:
			return nil, nil, err
		case l.owner != 0:
			live = append(live, fmt.Sprintf("%s, %s", l, process(l.owner)))
		case len(alive) > 0:
			live = append(live, fmt.Sprintf("%s, whose heartbeat goes on", l))
		default:
			dead = append(dead, l)
		}
	}
	return dead, live, nil
}

// known tells whether these are the sets of one of our tables.
func known(sets map[string]bool) bool {
	for _, name := range []string{"listeners", "vips", "services", "ours", "alive", "flows", "closing"} {
		if !sets[name] {
			return false
		}
	}
	return true
}

func cleanRoutes(dry bool) ([]string, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot open route netlink: %w", err)
	}
	defer handle.Close()
	var done []string
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		found, err := localRoutes(handle, any)
		if err != nil {
			return done, err
		}
		for _, r := range found {
			dst, ok := destination(&r)
			if !ok || r.Protocol != routeProtocol {
				continue
			}
			if !dry {
				if err := handle.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
					return done, fmt.Errorf("cannot remove the local route %s: %w", dst, err)
				}
			}
			done = append(done, fmt.Sprintf("local route %s", dst))
		}
	}
	return done, nil
}
