package lab

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/dnslet/dnslet/lab/netns"
	"github.com/dnslet/dnslet/node"
	"github.com/ti-mo/conntrack"
)

// Meter takes Counters.
type Meter struct {
	c       *Cluster
	entries *node.NewEntries
	last    atomic.Uint64 // entries of a last resort
	before  node.Conntrack
	noPorts uint64
}

// Meter begins to count. The caller ends it with Stop.
func (c *Cluster) Meter() (*Meter, error) {
	m := &Meter{c: c}
	err := c.Node.Do(func() (err error) {
		if m.before, err = node.ReadConntrack(); err != nil {
			return err
		}
		m.entries, err = node.WatchNewEntries(func(f node.Flow) bool {
			if f.Src.Addr() == NodeAddr && f.Dst == netip.AddrPortFrom(VIP, 53) {
				m.last.Add(1)
			}
			return f.Src.Port() == 53 || f.Dst.Port() == 53
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	if m.noPorts, err = c.noPorts(); err != nil {
		return nil, errors.Join(err, m.entries.Close())
	}
	return m, nil
}

// Stop ends the count and returns it.
func (m *Meter) Stop() (Counters, error) {
	defer m.entries.Close()
	entries, err := m.entries.Count()
	if err != nil {
		return Counters{}, fmt.Errorf("cannot count new conntrack entries: %w", err)
	}
	var now node.Conntrack
	if err := m.c.Node.Do(func() (err error) {
		now, err = node.ReadConntrack()
		return err
	}); err != nil {
		return Counters{}, err
	}
	noPorts, err := m.c.noPorts()
	if err != nil {
		return Counters{}, err
	}
	gained := now.Sub(m.before)
	return Counters{NewEntries: entries, LastResort: m.last.Load(), Clashes: gained.ClashResolve, InsertFailed: gained.InsertFailed, Drop: gained.Drop,
		LateAnswers: noPorts - m.noPorts}, nil
}

// noPorts adds UdpNoPorts over the pods.
func (c *Cluster) noPorts() (uint64, error) {
	var sum uint64
	for _, p := range c.Pods {
		n, err := snmp(p.NS, "Udp", "NoPorts")
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// snmp reads one counter of a namespace's /proc/net/snmp, which has two lines for a group: the names, then the values.
func snmp(ns *netns.NS, group, name string) (uint64, error) {
	var value uint64
	err := ns.Do(func() error {
		// Not /proc/net: that is the main thread's.
		f, err := os.Open("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		defer f.Close()
		var names []string
		for lines := bufio.NewScanner(f); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			if len(fields) == 0 || fields[0] != group+":" {
				continue
			}
			if names == nil {
				names = fields
				continue
			}
			for i, n := range names {
				if n == name && i < len(fields) {
					value, err = strconv.ParseUint(fields[i], 10, 64)
					return err
				}
			}
		}
		return fmt.Errorf("no counter is named %s", name)
	})
	if err != nil {
		return 0, fmt.Errorf("cannot read %s%s: %w", group, name, err)
	}
	return value, nil
}

// flushConntrack forgets every entry of the node, so that no run finds those of an earlier one.
func (c *Cluster) flushConntrack() error {
	err := c.Node.Do(func() error {
		conn, err := conntrack.Dial(nil)
		if err != nil {
			return err
		}
		return errors.Join(conn.Flush(), conn.Close())
	})
	if err != nil {
		return fmt.Errorf("cannot flush conntrack: %w", err)
	}
	return nil
}
