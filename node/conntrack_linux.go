package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The messages and attributes of ctnetlink that are used here, from linux/netfilter/nfnetlink_conntrack.h. x/sys has them not.
const (
	ctNew         = unix.NFNL_SUBSYS_CTNETLINK << 8
	ctGetStatsCPU = unix.NFNL_SUBSYS_CTNETLINK<<8 | 4

	sizeofNfgenmsg = 4 // family, version, resource: before the attributes of every netfilter message

	groupNew = 1 // NFNLGRP_CONNTRACK_NEW

	ctaTupleOrig  = 1
	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaIPv4Src    = 1
	ctaIPv4Dst    = 2
	ctaIPv6Src    = 3
	ctaIPv6Dst    = 4
	ctaProtoNum   = 1
	ctaSrcPort    = 2
	ctaDstPort    = 3

	ctaStatsFound         = 2
	ctaStatsInvalid       = 4
	ctaStatsInsert        = 8
	ctaStatsInsertFailed  = 9
	ctaStatsDrop          = 10
	ctaStatsEarlyDrop     = 11
	ctaStatsError         = 12
	ctaStatsSearchRestart = 13
	ctaStatsClashResolve  = 14
	ctaStatsChainTooLong  = 15
)

// ReadConntrack reads the counters of the calling thread's network namespace. It needs CAP_NET_ADMIN there.
func ReadConntrack() (Conntrack, error) {
	var c Conntrack
	conn, err := dialConntrack(0)
	if err != nil {
		return c, err
	}
	defer conn.Close()
	perCPU, err := conn.Execute(request(ctGetStatsCPU, netlink.Request|netlink.Dump))
	if err != nil {
		return c, fmt.Errorf("cannot read conntrack counters: %w", err)
	}
	for _, m := range perCPU {
		if err := c.addCPU(m.Data); err != nil {
			return c, fmt.Errorf("cannot read conntrack counters: %w", err)
		}
	}
	// Not by IPCTNL_MSG_CT_GET_STATS: the kernel marks that answer as one of several and never sends the end of them.
	if c.Entries, err = readSysctl("nf_conntrack_count"); err != nil {
		return c, err
	}
	if c.MaxEntries, err = readSysctl("nf_conntrack_max"); err != nil {
		return c, err
	}
	return c, nil
}

// readSysctl reads a number of conntrack's; /proc/sys shows those of the calling thread's network namespace.
func readSysctl(name string) (uint32, error) {
	text, err := os.ReadFile("/proc/sys/net/netfilter/" + name)
	if err != nil {
		return 0, fmt.Errorf("cannot read the size of the conntrack table: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("cannot read the size of the conntrack table: %w", err)
	}
	return uint32(n), nil
}

func dialConntrack(groups uint32) (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: groups})
	if err != nil {
		return nil, fmt.Errorf("cannot open conntrack netlink: %w", err)
	}
	return conn, nil
}

// request is a ctnetlink message without attributes: an nfgenmsg of family and version 0 follows the header.
func request(kind netlink.HeaderType, flags netlink.HeaderFlags) netlink.Message {
	return netlink.Message{Header: netlink.Header{Type: kind, Flags: flags}, Data: make([]byte, sizeofNfgenmsg)}
}

// attributes decodes what follows the nfgenmsg of a message. Numbers in ctnetlink are in network order.
func attributes(data []byte) (*netlink.AttributeDecoder, error) {
	if len(data) < sizeofNfgenmsg {
		return nil, fmt.Errorf("message of %d bytes is too short", len(data))
	}
	ad, err := netlink.NewAttributeDecoder(data[sizeofNfgenmsg:])
	if err != nil {
		return nil, err
	}
	ad.ByteOrder = binary.BigEndian
	return ad, nil
}

func (c *Conntrack) addCPU(data []byte) error {
	ad, err := attributes(data)
	if err != nil {
		return err
	}
	for ad.Next() {
		switch ad.Type() {
		case ctaStatsFound:
			c.Found += ad.Uint32()
		case ctaStatsInvalid:
			c.Invalid += ad.Uint32()
		case ctaStatsInsert:
			c.Insert += ad.Uint32()
		case ctaStatsInsertFailed:
			c.InsertFailed += ad.Uint32()
		case ctaStatsDrop:
			c.Drop += ad.Uint32()
		case ctaStatsEarlyDrop:
			c.EarlyDrop += ad.Uint32()
		case ctaStatsError:
			c.Error += ad.Uint32()
		case ctaStatsSearchRestart:
			c.SearchRestart += ad.Uint32()
		case ctaStatsClashResolve:
			c.ClashResolve += ad.Uint32()
			c.CountsClashes = true
		case ctaStatsChainTooLong:
			c.ChainTooLong += ad.Uint32()
		}
	}
	return ad.Err()
}

// NewEntries counts the entries that connection tracking makes. The kernel's own `insert` counter does not count those of the
// packet path, its events do.
type NewEntries struct {
	conn  *netlink.Conn
	match func(Flow) bool
	ended chan struct{} // closed when the reader has ended

	mu      sync.Mutex
	moved   sync.Cond // answers or err have changed
	count   uint64
	overrun bool
	asked   uint64 // barriers sent
	answers uint64 // barriers answered
	closed  bool   // Close was called
	err     error  // why the reader ended
}

// WatchNewEntries counts, from now on, the entries made in the calling thread's network namespace for which match is true
// (nil: all). match is called on one goroutine of the watcher. The caller closes it.
func WatchNewEntries(match func(Flow) bool) (*NewEntries, error) {
	conn, err := dialConntrack(1 << (groupNew - 1))
	if err != nil {
		return nil, err
	}
	// More than net.core.rmem_max takes CAP_NET_ADMIN of the initial user namespace; where that is missing the default
	// remains, and Count tells when it did not suffice.
	_ = conn.SetReadBuffer(8 << 20)
	n := &NewEntries{conn: conn, match: match, ended: make(chan struct{})}
	n.moved.L = &n.mu
	go n.read()
	return n, nil
}

// Count returns how many entries have been made before this call. If events were lost the count is too low and the error is
// ErrOverrun.
//
// The kernel puts events and acknowledgements into one queue, so that the acknowledgement of a request made now, even of one
// that does nothing, comes after every event so far.
func (n *NewEntries) Count() (uint64, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	// After an overrun the kernel drops acknowledgements, too, until the queue is empty: none is waited for.
	if n.err == nil && !n.overrun {
		if _, err := n.conn.Send(request(netlink.Noop, netlink.Request|netlink.Acknowledge)); err != nil {
			return n.count, fmt.Errorf("cannot ask conntrack: %w", err)
		}
		n.asked++
	}
	for ticket := n.asked; n.answers < ticket && n.err == nil && !n.overrun; {
		n.moved.Wait()
	}
	switch {
	case n.err != nil:
		return n.count, n.err
	case n.overrun:
		return n.count, ErrOverrun
	}
	return n.count, nil
}

// Close ends the watch.
func (n *NewEntries) Close() error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	err := n.conn.Close()
	<-n.ended
	return err
}

func (n *NewEntries) read() {
	defer close(n.ended)
	for {
		messages, err := n.conn.Receive()
		n.mu.Lock()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			n.overrun = true
		case err != nil:
			n.err = fmt.Errorf("cannot read conntrack events: %w", err)
			if n.closed {
				n.err = os.ErrClosed
			}
		}
		for _, m := range messages {
			n.take(m)
		}
		failed := n.err != nil
		n.moved.Broadcast()
		n.mu.Unlock()
		if failed {
			return
		}
	}
}

func (n *NewEntries) take(m netlink.Message) {
	switch m.Header.Type {
	case netlink.Error: // an acknowledgement; Receive returns real errors as such
		if n.answers < n.asked {
			n.answers++
		}
	case ctNew:
		flow, err := flowOf(m.Data)
		if err == nil && (n.match == nil || n.match(flow)) {
			n.count++
		}
	}
}

// flowOf reads the original tuple of an entry.
func flowOf(data []byte) (Flow, error) {
	var flow Flow
	var src, dst netip.Addr
	var sport, dport uint16
	ad, err := attributes(data)
	if err != nil {
		return flow, err
	}
	for ad.Next() {
		if ad.Type() != ctaTupleOrig {
			continue
		}
		ad.Nested(func(tuple *netlink.AttributeDecoder) error {
			for tuple.Next() {
				switch tuple.Type() {
				case ctaTupleIP:
					tuple.Nested(func(ip *netlink.AttributeDecoder) error {
						for ip.Next() {
							switch ip.Type() {
							case ctaIPv4Src, ctaIPv6Src:
								src, _ = netip.AddrFromSlice(ip.Bytes())
							case ctaIPv4Dst, ctaIPv6Dst:
								dst, _ = netip.AddrFromSlice(ip.Bytes())
							}
						}
						return nil
					})
				case ctaTupleProto:
					tuple.Nested(func(proto *netlink.AttributeDecoder) error {
						for proto.Next() {
							switch proto.Type() {
							case ctaProtoNum:
								flow.Protocol = proto.Uint8()
							case ctaSrcPort:
								sport = proto.Uint16()
							case ctaDstPort:
								dport = proto.Uint16()
							}
						}
						return nil
					})
				}
			}
			return nil
		})
	}
	flow.Src, flow.Dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return flow, ad.Err()
}
