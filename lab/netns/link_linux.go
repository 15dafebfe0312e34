package netns

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// settleWait bounds the wait for what the kernel does behind a netlink request, in a worker. It needs well under a
// millisecond, unless it has no CPU.
const settleWait = 5 * time.Second

// settle waits until ready says so. These states have no notification that comes after they are in force.
func settle(what string, ready func() (bool, error)) error {
	for deadline := time.Now().Add(settleWait); ; time.Sleep(time.Millisecond) {
		ok, err := ready()
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cannot wait longer than %v for %s", settleWait, what)
		}
	}
}

// Veth connects two namespaces (or one with itself) by a pair of interfaces, sets both up and waits until both carry packets.
func Veth(a *NS, nameA string, b *NS, nameB string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = nameA
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: nameB}
	if a != b {
		veth.PeerNamespace = netlink.NsFd(b.file.Fd())
	}
	if err := a.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("cannot add veth %s: %w", nameA, err)
	}
	if err := a.SetUp(nameA); err != nil {
		return err
	}
	if err := b.SetUp(nameB); err != nil {
		return err
	}
	if err := a.waitCarrier(nameA); err != nil {
		return err
	}
	return b.waitCarrier(nameB)
}

// waitCarrier waits until the kernel has seen the carrier. An interface that was set up before its peer drops what it is to
// send (its queue is the noop one) until a kernel worker has run; from Linux 6.8 on asking for the link runs it.
func (ns *NS) waitCarrier(name string) error {
	return settle("the carrier of "+name, func() (bool, error) {
		link, err := ns.link(name)
		return err == nil && link.Attrs().OperState == netlink.OperUp, err
	})
}

func (ns *NS) link(name string) (netlink.Link, error) {
	link, err := ns.handle.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("cannot find link %s: %w", name, err)
	}
	return link, nil
}

// SetUp sets a link up.
func (ns *NS) SetUp(name string) error {
	link, err := ns.link(name)
	if err != nil {
		return err
	}
	if err := ns.handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("cannot set link %s up: %w", name, err)
	}
	return nil
}

// SetDown sets a link down; its routes go with it.
func (ns *NS) SetDown(name string) error {
	link, err := ns.link(name)
	if err != nil {
		return err
	}
	if err := ns.handle.LinkSetDown(link); err != nil {
		return fmt.Errorf("cannot set link %s down: %w", name, err)
	}
	return nil
}

// DelLink removes a link; of a veth, its other end too.
func (ns *NS) DelLink(name string) error {
	link, err := ns.link(name)
	if err != nil {
		return err
	}
	if err := ns.handle.LinkDel(link); err != nil {
		return fmt.Errorf("cannot delete link %s: %w", name, err)
	}
	return nil
}

// MAC is the hardware address of a link, for the neighbour entry on its other side.
func (ns *NS) MAC(name string) (net.HardwareAddr, error) {
	link, err := ns.link(name)
	if err != nil {
		return nil, err
	}
	return link.Attrs().HardwareAddr, nil
}

// AddAddr gives a link an address. IPv6 addresses are usable when it returns: no duplicate address detection.
func (ns *NS) AddAddr(name string, prefix netip.Prefix) error {
	link, err := ns.link(name)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: ipNet(prefix)}
	if prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := ns.handle.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("cannot add address %s to %s: %w", prefix, name, err)
	}
	if prefix.Addr().Is4() {
		return nil
	}
	// A worker makes an IPv6 address local; until then it can be bound, and what is sent to it is lost.
	return settle("address "+prefix.Addr().String(), func() (bool, error) {
		routes, err := ns.handle.RouteGet(addr.IP)
		return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL, nil
	})
}

// AddRoute adds a route to the main table, or to the local one when Local is set.
func (ns *NS) AddRoute(r Route) error {
	route, err := ns.route(r)
	if err != nil {
		return err
	}
	if err := ns.handle.RouteAdd(route); err != nil {
		return fmt.Errorf("cannot add route %s: %w", r.Dst, err)
	}
	return nil
}

// DelRoute removes a route that AddRoute added.
func (ns *NS) DelRoute(r Route) error {
	route, err := ns.route(r)
	if err != nil {
		return err
	}
	if err := ns.handle.RouteDel(route); err != nil {
		return fmt.Errorf("cannot delete route %s: %w", r.Dst, err)
	}
	return nil
}

func (ns *NS) route(r Route) (*netlink.Route, error) {
	route := &netlink.Route{Dst: ipNet(r.Dst)}
	if r.Link != "" {
		link, err := ns.link(r.Link)
		if err != nil {
			return nil, err
		}
		route.LinkIndex = link.Attrs().Index
	}
	switch {
	case r.Local:
		route.Table, route.Type, route.Scope = unix.RT_TABLE_LOCAL, unix.RTN_LOCAL, unix.RT_SCOPE_HOST
	case !r.Via.IsValid():
		route.Scope = unix.RT_SCOPE_LINK
	default:
		route.Gw = r.Via.AsSlice()
	}
	if r.OnLink {
		route.Flags = int(netlink.FLAG_ONLINK)
	}
	if r.Src.IsValid() {
		route.Src = r.Src.AsSlice()
	}
	return route, nil
}

// AddNeigh makes a permanent neighbour entry: no ARP or neighbour discovery is needed, or lost, on the way to it.
func (ns *NS) AddNeigh(name string, addr netip.Addr, mac net.HardwareAddr) error {
	link, err := ns.link(name)
	if err != nil {
		return err
	}
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	err = ns.handle.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: family, State: unix.NUD_PERMANENT, Type: unix.RTN_UNICAST,
		IP: addr.AsSlice(), HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("cannot add neighbour %s on %s: %w", addr, name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
