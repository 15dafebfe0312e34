// Package node reads facts of the machine: its routes and addresses, its resolv.conf, its kernel, the limits it puts on
// this process, and what its connection tracking counts.
//
// It only reads. It changes nothing, watches nothing, keeps nothing between calls, and leaves every judgement of what it
// read to its callers.
package node

import (
	"net"
	"net/netip"
)

// IsLocal reports whether a packet to a stays on this machine: a is loopback, or the kernel routes it to itself, be it
// an address of an interface or a local route. It is false, too, for an address that cannot be routed at all.
func IsLocal(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsValid() || a.IsLoopback() {
		return a.IsValid()
	}
	if local, err := routedLocally(a); err == nil {
		return local
	}
	// Not Linux, or no route, which is the kernel's word for "not mine" but also what a forbidden netlink looks like.
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, o := range addrs {
		if p, err := netip.ParsePrefix(o.String()); err == nil && p.Addr().Unmap() == a.WithZone("") {
			return true
		}
	}
	return false
}
