package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// DefaultRouteInterfaces returns the names of the interfaces over which default routes lead, of IPv4 and of IPv6, each
// sorted. All routing tables count, since clouds give each further network card a table of its own. Loopback does not,
// nor do routes that forbid.
func DefaultRouteInterfaces() (v4, v6 []string, err error) {
	if v4, err = defaultRouteInterfaces(netlink.FAMILY_V4); err == nil {
		v6, err = defaultRouteInterfaces(netlink.FAMILY_V6)
	}
	return v4, v6, err
}

// dumpTries bounds how often a dump that routes changed under is taken again.
const dumpTries = 5

func defaultRouteInterfaces(family int) ([]string, error) {
	// The zero table as a filter is the netlink package's word for all tables.
	filter := &netlink.Route{Table: unix.RT_TABLE_UNSPEC, Type: unix.RTN_UNICAST}
	var routes []netlink.Route
	var err error
	for range dumpTries {
		routes, err = netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // ipv6.disable=1
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list routes: %w", err)
	}
	var names []string
	for _, r := range routes {
		if !isDefault(r.Dst) {
			continue
		}
		hops := r.MultiPath
		if len(hops) == 0 {
			hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex}}
		}
		for _, h := range hops {
			i, err := net.InterfaceByIndex(h.LinkIndex)
			if err != nil || i.Flags&net.FlagLoopback != 0 {
				continue // gone since the dump, or a route that never leaves
			}
			names = append(names, i.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func isDefault(dst *net.IPNet) bool {
	if dst == nil {
		return true
	}
	ones, _ := dst.Mask.Size()
	return ones == 0
}

// routedLocally asks the kernel where a packet to a would go.
func routedLocally(a netip.Addr) (bool, error) {
	options := &netlink.RouteGetOptions{Oif: a.Zone()}
	routes, err := netlink.RouteGetWithOptions(net.IP(a.WithZone("").AsSlice()), options)
	if err != nil {
		return false, fmt.Errorf("cannot ask for the route to %s: %w", a, err)
	}
	return slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Type == unix.RTN_LOCAL }), nil
}
