package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrNoQueue says that this kernel can hand no packets to user space.
var ErrNoQueue = errors.New("this kernel has neither nft `queue` (CONFIG_NFT_QUEUE) nor the xtables target NFQUEUE through nft_compat")

// holdTime is how long a packet waits for the other one of its pair: longer than a client needs to send both, and short enough
// not to matter beside any timeout.
const holdTime = 5 * time.Millisecond

// Hold keeps the first packet of a pair, a question of a pod by UDP, until the second one comes, or holdTime has passed, and
// then lets both go, in order and from one thread: what a policy proxy, an IDS or a busy softirq does to the two questions that
// a stub resolver sends from one socket. Both have then been sent to an endpoint before the first one is confirmed in
// connection tracking, every time.
//
// It treats every path alike: packets that are forwarded to an endpoint, and packets to a server on the node itself.
type Hold struct {
	conn  *netlink.Conn
	drop  func() error
	ended chan struct{}

	pairs, singles atomic.Uint64
}

// HoldStats are what a Hold has let go.
type HoldStats struct {
	Pairs   uint64 // two packets of one socket together
	Singles uint64 // packets that waited in vain
}

// The messages and attributes of nfnetlink_queue, from linux/netfilter/nfnetlink_queue.h. x/sys has them not.
const (
	queuePacket  = unix.NFNL_SUBSYS_QUEUE << 8
	queueVerdict = unix.NFNL_SUBSYS_QUEUE<<8 | 1
	queueConfig  = unix.NFNL_SUBSYS_QUEUE<<8 | 2

	queueCfgCmd    = 1
	queueCfgParams = 2
	queueCfgMaxLen = 3
	queueCmdBind   = 1
	queueCopyAll   = 2 // NFQNL_COPY_PACKET

	queuePacketHdr  = 1
	queueVerdictHdr = 2
	queuePayload    = 10

	queueNumber = 0
	queueLength = 65535
	copyBytes   = 64 // the IPv4 header with options, and the ports
)

// StartHold begins to hold packets in the node's namespace. The caller closes it. It returns ErrNoQueue where the kernel
// cannot do it.
func (c *Cluster) StartHold() (*Hold, error) {
	h := &Hold{ended: make(chan struct{})}
	err := c.Node.Do(func() (err error) {
		if h.conn, err = openQueue(); err != nil {
			return err
		}
		if err := addHoldRules(); err != nil {
			h.conn.Close()
			return err
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot hold packets: %w", err)
	}
	h.drop = func() error { return c.Node.Do(dropHoldRules) }
	go h.run()
	return h, nil
}

// Stats returns what has been let go so far.
func (h *Hold) Stats() HoldStats { return HoldStats{Pairs: h.pairs.Load(), Singles: h.singles.Load()} }

// Close ends the holding: first the rules go, then the queue; what is held is let go by the rule's bypass and the kernel.
func (h *Hold) Close() error {
	err := errors.Join(h.drop(), h.conn.Close())
	<-h.ended
	return err
}

func openQueue() (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot open the packet queue: %w", err)
	}
	params := make([]byte, 5)
	binary.BigEndian.PutUint32(params, copyBytes)
	params[4] = queueCopyAll
	for _, attr := range []netlink.Attribute{
		{Type: queueCfgCmd, Data: []byte{queueCmdBind, 0, 0, unix.AF_INET}},
		{Type: queueCfgParams, Data: params},
		{Type: queueCfgMaxLen, Data: binaryutil.BigEndian.PutUint32(queueLength)},
	} {
		m, err := queueMessage(queueConfig, netlink.Request|netlink.Acknowledge, attr)
		if err == nil {
			_, err = conn.Execute(m)
		}
		if err != nil {
			conn.Close()
			return nil, fmt.Errorf("cannot set the packet queue up: %w", err)
		}
	}
	// The queue never overflows at the rates of a lab; without a larger buffer it would only be less sure of it, and
	// ENOBUFS is not an error to act on here: the packet is lost, as packets are.
	_ = conn.SetReadBuffer(8 << 20)
	_ = conn.SetOption(netlink.NoENOBUFS, true)
	return conn, nil
}

// queueMessage is a message to queue number 0: an nfgenmsg whose resource is the queue's number, and attributes.
func queueMessage(kind netlink.HeaderType, flags netlink.HeaderFlags, attrs ...netlink.Attribute) (netlink.Message, error) {
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return netlink.Message{}, err
	}
	genmsg := []byte{unix.AF_UNSPEC, 0, 0, queueNumber}
	return netlink.Message{Header: netlink.Header{Type: kind, Flags: flags}, Data: append(genmsg, data...)}, nil
}

func holdTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "policy-proxy"}
}

// addHoldRules queues the questions of pods, by nft's own queue where the kernel has it, else by the target of xtables.
func addHoldRules() error {
	// struct xt_NFQ_info_v2: number and count of queues, bypass, in host order, padded to 8 bytes.
	info := make(xt.Unknown, 8)
	binary.NativeEndian.PutUint16(info, queueNumber)
	binary.NativeEndian.PutUint16(info[2:], 1)
	binary.NativeEndian.PutUint16(info[4:], 1)
	for _, queue := range []expr.Any{
		&expr.Queue{Num: queueNumber, Flag: expr.QueueFlagBypass},
		&expr.Target{Name: "NFQUEUE", Rev: 2, Info: &info},
	} {
		err := holdRules(queue)
		if err == nil || !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return ErrNoQueue
}

func holdRules(queue expr.Any) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(holdTable())
	priority := *nftables.ChainPriorityMangle
	for _, at := range []struct {
		name string
		hook *nftables.ChainHook
	}{
		{"forward", nftables.ChainHookForward},
		{"input", nftables.ChainHookInput},
	} {
		chain := conn.AddChain(&nftables.Chain{Table: table, Name: at.name, Type: nftables.ChainTypeFilter,
			Hooknum: at.hook, Priority: &priority})
		match := append(srcIn(PodCIDR), l4proto(unix.IPPROTO_UDP)...)
		match = append(match, dstPort(53)...)
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(match, queue)})
	}
	return conn.Flush()
}

func dropHoldRules() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.DelTable(holdTable())
	return conn.Flush()
}

// held is the first packet of a pair.
type held struct {
	key   netip.AddrPort // source: one socket of one pod
	id    uint32
	until time.Time
}

// run is the one thread that gives verdicts. held packets are in the order of their deadlines, which is that of arrival.
//
// A packet that has waited long enough goes only when the queue is seen to be empty after that: on a busy machine its partner
// may have been waiting there, unread.
func (h *Hold) run() {
	defer close(h.ended)
	var waiting []held
	var overdue bool
	for {
		var deadline time.Time
		switch {
		case overdue:
			deadline = time.Now().Add(lookAgain)
		case len(waiting) > 0:
			deadline = waiting[0].until
		}
		if err := h.conn.SetReadDeadline(deadline); err != nil {
			return
		}
		messages, err := h.conn.Receive()
		empty := errors.Is(err, os.ErrDeadlineExceeded)
		if err != nil && !empty && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		now := time.Now()
		for _, m := range messages {
			if m.Header.Type != queuePacket {
				continue
			}
			id, key, err := parsePacket(m.Data)
			if err != nil {
				continue
			}
			waiting = h.arrive(waiting, held{key, id, now.Add(holdTime)})
		}
		for empty && overdue && len(waiting) > 0 && !waiting[0].until.After(now) {
			h.accept(waiting[0].id)
			h.singles.Add(1)
			waiting = waiting[1:]
		}
		overdue = len(waiting) > 0 && !waiting[0].until.After(now)
	}
}

// lookAgain is how long the queue has to be empty before a packet that has waited long enough goes alone: longer than a read,
// and short beside holdTime.
const lookAgain = 500 * time.Microsecond

// arrive lets a pair go, or keeps the packet as the first of one.
func (h *Hold) arrive(waiting []held, p held) []held {
	for i, first := range waiting {
		if first.key == p.key {
			h.accept(first.id)
			h.accept(p.id)
			h.pairs.Add(1)
			return append(waiting[:i], waiting[i+1:]...)
		}
	}
	return append(waiting, p)
}

// accept lets a packet go. An error means that the queue is gone, and with it the packet.
func (h *Hold) accept(id uint32) {
	const nfAccept = 1
	data := make([]byte, 8)
	binary.BigEndian.PutUint32(data, nfAccept)
	binary.BigEndian.PutUint32(data[4:], id)
	m, err := queueMessage(queueVerdict, netlink.Request, netlink.Attribute{Type: queueVerdictHdr, Data: data})
	if err == nil {
		_, _ = h.conn.Send(m)
	}
}

func parsePacket(data []byte) (id uint32, key netip.AddrPort, err error) {
	const genmsg = 4
	if len(data) < genmsg {
		return 0, key, errors.New("message is too short")
	}
	ad, err := netlink.NewAttributeDecoder(data[genmsg:])
	if err != nil {
		return 0, key, err
	}
	for ad.Next() {
		switch b := ad.Bytes(); {
		case ad.Type() == queuePacketHdr && len(b) >= 4:
			id = binary.BigEndian.Uint32(b)
		case ad.Type() == queuePayload && len(b) >= 20:
			ports := int(b[0]&0x0f) * 4
			if len(b) < ports+2 {
				return 0, key, errors.New("packet is too short")
			}
			src, _ := netip.AddrFromSlice(b[srcOffset : srcOffset+4])
			key = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b[ports+srcPortOffset:]))
		}
	}
	return id, key, ad.Err()
}
