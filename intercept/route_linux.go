package intercept

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks our routes, so that they can be told from anybody else's: "S", in the range that the kernel leaves to
// routing daemons and that /etc/iproute2/rt_protos has given to nobody.
const routeProtocol = 83

// routes is the local route of each family that has a VIP: `local BLOCK dev lo table local`. No interface gets an address, so
// nothing that looks for addresses of the node (a CNI, the kubelet, ARP) finds ours.
type routes struct {
	mu     sync.Mutex
	handle *netlink.Handle
	lo     int
	want   []netip.Prefix
	closed bool
}

func openRoutes(families []*family) (*routes, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot open route netlink: %w", err)
	}
	lo, err := handle.LinkByName("lo")
	if err != nil {
		handle.Close()
		return nil, fmt.Errorf("cannot find the loopback interface: %w", err)
	}
	r := &routes{handle: handle, lo: lo.Attrs().Index}
	for _, f := range families {
		if len(f.listeners) > 0 {
			r.want = append(r.want, f.block)
		}
	}
	return r, nil
}

// ensure adds the routes that are not there and returns how many those were. It asks for no list: a node may have many routes,
// and this is done every other second.
func (r *routes) ensure() (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	if r.closed {
		return n, nil
	}
	for _, block := range r.want {
		switch err := r.handle.RouteAdd(r.route(block)); {
		case err == nil:
			n++
		case errors.Is(err, unix.EACCES) && block.Addr().Is6(): // what a missing privilege gives is EPERM
			return n, fmt.Errorf("cannot add the local route %s: IPv6 is switched off on this node (net.ipv6.conf.lo.disable_ipv6): "+
				"switch it on, or take the IPv6 addresses out of the virtual IPs", block)
		case !errors.Is(err, unix.EEXIST):
			return n, fmt.Errorf("cannot add the local route %s: %w", block, err)
		}
	}
	return n, nil
}

func (r *routes) route(block netip.Prefix) *netlink.Route {
	dst := &net.IPNet{IP: block.Addr().AsSlice(), Mask: net.CIDRMask(block.Bits(), block.Addr().BitLen())}
	return &netlink.Route{LinkIndex: r.lo, Dst: dst, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Protocol: routeProtocol}
}

// unused is nil when nobody else's address or local route lies in our blocks.
func (r *routes) unused() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, block := range r.want {
		found, err := localRoutes(r.handle, block.Addr())
		if err != nil {
			return err
		}
		for _, route := range found {
			dst, ok := destination(&route)
			if ok && dst.Overlaps(block) && dst.Bits() >= block.Bits() && route.Protocol != routeProtocol {
				return fmt.Errorf("own addresses %s: %s is already an address of this node; choose others", block, dst)
			}
		}
	}
	return nil
}

// close removes the routes when remove is true, and the socket.
func (r *routes) close(remove bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.handle.Close()
	r.closed = true // nobody puts them back
	if !remove {
		return nil
	}
	var errs []error
	for _, block := range r.want {
		if err := r.handle.RouteDel(r.route(block)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("cannot remove the local route %s: %w", block, err))
		}
	}
	return errors.Join(errs...)
}

// uplinks returns the interfaces of all default routes, in any table: a node with a second network card has one there.
func (r *routes) uplinks() ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nil
	}
	index := map[int]bool{}
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		found, err := whole(func() ([]netlink.Route, error) {
			return r.handle.RouteListFiltered(fam, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("cannot list the routes: %w", err)
		}
		for _, route := range found {
			if dst, ok := destination(&route); route.Dst != nil && (!ok || dst.Bits() != 0) || route.Type != unix.RTN_UNICAST {
				continue
			}
			index[route.LinkIndex] = true
			for _, hop := range route.MultiPath {
				index[hop.LinkIndex] = true
			}
		}
	}
	links, err := whole(r.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("cannot list the interfaces: %w", err)
	}
	var out []string
	for _, l := range links {
		if a := l.Attrs(); index[a.Index] && a.Index != r.lo {
			out = append(out, a.Name)
		}
	}
	slices.Sort(out)
	return out, nil
}

func localRoutes(handle *netlink.Handle, of netip.Addr) ([]netlink.Route, error) {
	fam := netlink.FAMILY_V4
	if of.Is6() {
		fam = netlink.FAMILY_V6
	}
	found, err := whole(func() ([]netlink.Route, error) {
		return handle.RouteListFiltered(fam, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the local routes: %w", err)
	}
	return slices.DeleteFunc(found, func(r netlink.Route) bool { return r.Type != unix.RTN_LOCAL }), nil
}

// whole asks again when the list changed under the asking, as it does while pods come and go.
func whole[T any](list func() (T, error)) (out T, err error) {
	for range 16 {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}

func destination(r *netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(r.Dst.IP)
	ones, _ := r.Dst.Mask.Size()
	if r.Dst.IP.To4() != nil {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones), ok
}
