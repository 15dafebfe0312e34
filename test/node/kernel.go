package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownBlock is where dnslet's own addresses lie by default.
var ownBlock = netip.MustParsePrefix("169.254.53.48/28")

// preDialed lets net/http use one connection that was made on the right thread.
type preDialed struct{ conn net.Conn }

func dialHere(addr string) (*preDialed, error) {
	conn, err := net.Dial("tcp4", addr)
	return &preDialed{conn}, err
}

func (p *preDialed) dial(context.Context, string, string) (net.Conn, error) { return p.conn, nil }

// watch counts the NEW events of a node's conntrack that concern its DNS.
type watch struct {
	conn *conntrack.Conn
	vip  atomic.Int64 // to the VIP: lookups that went to kube-proxy
	own  atomic.Int64 // to or from our own addresses: the pod leg
	up   atomic.Int64 // from the node to an endpoint: the upstream leg
	last atomic.Value // string: the last one, for the report
}

// watchConntrack subscribes; it must be closed. o.node's own address is not known, so that a question to an endpoint counts as the
// node's when the entry was not made by a DNAT (its answer would come from the endpoint, but its question went to the VIP).
func watchConntrack(node *place, o options) (*watch, error) {
	w := &watch{}
	err := node.do(func() (err error) {
		w.conn, err = conntrack.Dial(nil)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot open ctnetlink in the node: %w", err)
	}
	w.conn.SetReadBuffer(8 << 20)
	events := make(chan conntrack.Event, 4096)
	if _, err := w.conn.Listen(events, 1, []netfilter.NetlinkGroup{netfilter.GroupCTNew}); err != nil {
		return nil, fmt.Errorf("cannot subscribe to conntrack events: %w", err)
	}
	go func() {
		for e := range events {
			w.count(e, o)
		}
	}()
	return w, nil
}

func (w *watch) count(e conntrack.Event, o options) {
	if e.Flow == nil {
		return
	}
	t := e.Flow.TupleOrig
	src, dst, port := t.IP.SourceAddress, t.IP.DestinationAddress, t.Proto.DestinationPort
	switch {
	case dst == o.vip && port == 53:
		w.vip.Add(1)
	case ownBlock.Contains(src) || ownBlock.Contains(dst):
		w.own.Add(1)
	case slices.Contains(o.endpoints, netip.AddrPortFrom(dst, port)) || slices.Contains(o.endpoints, netip.AddrPortFrom(src, t.Proto.SourcePort)):
		w.up.Add(1)
	default:
		return
	}
	w.last.Store(fmt.Sprintf("%s:%d > %s:%d", src, t.Proto.SourcePort, dst, port))
}

func (w *watch) close() { w.conn.Close() }

// traces lists what a dnslet has in the node: its tables, its routes.
func traces(node *place) ([]string, error) {
	var found []string
	err := node.do(func() error {
		tables, err := (&nftables.Conn{}).ListTables()
		if err != nil {
			return err
		}
		for _, t := range tables {
			if strings.Contains(t.Name, "dnslet") {
				found = append(found, "table "+t.Name)
			}
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.Dst == nil {
				continue
			}
			if a, ok := netip.AddrFromSlice(r.Dst.IP.To4()); ok && ownBlock.Contains(a) {
				found = append(found, "route "+r.Dst.String())
			}
		}
		return nil
	})
	return found, err
}
