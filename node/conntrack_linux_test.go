package node

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/dnslet/dnslet/lab/netns"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// tracked makes a namespace in which connection tracking is on: a rule that asks for a packet's state turns it on.
func tracked(t *testing.T) *netns.NS {
	t.Helper()
	netns.Require(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	err = ns.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Name: "t", Family: nftables.TableFamilyINet})
		chain := c.AddChain(&nftables.Chain{Name: "c", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeySTATE}}})
		return c.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// flows sends one datagram each from count new sockets to to.
func flows(t *testing.T, ns *netns.NS, to string, count int) {
	t.Helper()
	err := ns.Do(func() error {
		c, err := net.ListenPacket("udp", net.JoinHostPort(netip.MustParseAddrPort(to).Addr().String(), "0"))
		if err != nil {
			return err
		}
		defer c.Close()
		// One socket, many destination ports: as many flows, and no ports run out.
		base := netip.MustParseAddrPort(to)
		for i := range count {
			dst := netip.AddrPortFrom(base.Addr(), base.Port()+uint16(i))
			// A refused port of a datagram before may surface here; the datagram has made its entry all the same.
			_, _ = c.(*net.UDPConn).WriteToUDPAddrPort([]byte("x"), dst)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func watch(t *testing.T, ns *netns.NS, match func(Flow) bool) *NewEntries {
	t.Helper()
	var n *NewEntries
	err := ns.Do(func() (err error) {
		n, err = WatchNewEntries(match)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func readIn(t *testing.T, ns *netns.NS) Conntrack {
	t.Helper()
	var c Conntrack
	err := ns.Do(func() (err error) {
		c, err = ReadConntrack()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Red when: Count does not wait for the answer to its own request, or flowOf reads ports in host order.
func TestNewEntries(t *testing.T) {
	ns := tracked(t)
	all := watch(t, ns, nil)
	to4, to6 := netip.MustParseAddrPort("127.0.0.1:3000"), netip.MustParseAddrPort("[::1]:3000")
	one := watch(t, ns, func(f Flow) bool {
		return f.Protocol == 17 && f.Src.Addr() == f.Dst.Addr() && (f.Dst == to4 || f.Dst == to6)
	})
	flows(t, ns, to4.String(), 100)
	flows(t, ns, to6.String(), 50)
	if n, err := all.Count(); n != 150 || err != nil {
		t.Errorf("all: %d new entries, %v, want 150", n, err)
	}
	if n, err := one.Count(); n != 2 || err != nil {
		t.Errorf("to one port of each family: %d new entries, %v, want 2", n, err)
	}
	if c := readIn(t, ns); c.Entries != 150 || c.MaxEntries == 0 {
		t.Errorf("the table holds %d of %d entries, want 150", c.Entries, c.MaxEntries)
	}
	one.Close()
	if _, err := one.Count(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Count after Close: %v, want os.ErrClosed", err)
	}
}

// A count that is too low says so, and is not waited for in vain.
//
// Red when: read forgets ENOBUFS.
func TestNewEntriesOverrun(t *testing.T) {
	ns := tracked(t)
	gate := make(chan struct{})
	first := make(chan struct{}, 1)
	n := watch(t, ns, func(Flow) bool {
		select {
		case first <- struct{}{}:
		default:
		}
		<-gate
		return true
	})
	flows(t, ns, "127.0.0.1:3000", 1)
	<-first
	flows(t, ns, "127.0.0.1:3001", 40000)
	close(gate)
	if count, err := n.Count(); !errors.Is(err, ErrOverrun) {
		t.Errorf("Count = %d, %v, want ErrOverrun", count, err)
	}
}

// Red when: Sub keeps a counter.
func TestConntrackSub(t *testing.T) {
	before := Conntrack{Found: 1, Invalid: 2, Insert: 3, InsertFailed: 4, Drop: 5, EarlyDrop: 6, Error: 7, SearchRestart: 8,
		ClashResolve: 1<<32 - 1, ChainTooLong: 10, Entries: 9, MaxEntries: 99, CountsClashes: true}
	after := Conntrack{Found: 2, Invalid: 4, Insert: 6, InsertFailed: 8, Drop: 10, EarlyDrop: 12, Error: 14, SearchRestart: 16,
		ClashResolve: 8, ChainTooLong: 20, Entries: 3, MaxEntries: 99, CountsClashes: true}
	want := Conntrack{Found: 1, Invalid: 2, Insert: 3, InsertFailed: 4, Drop: 5, EarlyDrop: 6, Error: 7, SearchRestart: 8,
		ClashResolve: 9, ChainTooLong: 10, Entries: 3, MaxEntries: 99, CountsClashes: true}
	if got := after.Sub(before); got != want {
		t.Errorf("Sub = %+v, want %+v", got, want)
	}
}

// Red when: the number of an attribute is off by one.
func TestReadConntrackCountsClashes(t *testing.T) {
	if c := readIn(t, tracked(t)); !c.CountsClashes {
		t.Error("this kernel's clash_resolve is not read; every kernel from 5.10 on has it")
	}
}
