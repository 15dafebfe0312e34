package intercept

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// Attributes that x/sys/unix does not name (linux/netfilter/nf_tables.h).
const nftaTableOwner = 7

func (l leftover) String() string {
	f := "ip"
	if l.family == unix.NFPROTO_IPV6 {
		f = "ip6"
	}
	return fmt.Sprintf("table %s %s", f, l.name)
}

// tables returns every table of IPv4 and IPv6.
func (c *conn) tables() ([]leftover, error) {
	var out []leftover
	err := c.dump(unix.NFT_MSG_GETTABLE, unix.NFPROTO_UNSPEC, nil, func(family byte, attrs []byte) {
		l := leftover{family: family}
		for typ, data := range attributes(attrs) {
			switch {
			case typ == unix.NFTA_TABLE_NAME:
				l.name = text(data)
			case typ == nftaTableOwner && len(data) == 4:
				l.owner = binary.BigEndian.Uint32(data)
			}
		}
		if family == unix.NFPROTO_IPV4 || family == unix.NFPROTO_IPV6 {
			out = append(out, l)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the nftables tables: %w", err)
	}
	return out, nil
}

type aliveKey struct {
	addr      netip.Addr
	transport Transport
}

// aliveIn returns the elements of a table's set alive that have not lapsed; none when there is no such set.
func (c *conn) aliveIn(table string, family uint8) (map[aliveKey]bool, error) {
	out := map[aliveKey]bool{}
	attrs := append(attributeName(unix.NFTA_SET_ELEM_LIST_TABLE, table), attributeName(unix.NFTA_SET_ELEM_LIST_SET, "alive")...)
	err := c.dump(unix.NFT_MSG_GETSETELEM, family, attrs, func(_ byte, attrs []byte) {
		for typ, list := range attributes(attrs) {
			if typ != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			for _, item := range attributes(list) {
				if k, ok := parseAlive(item); ok {
					out[k] = true
				}
			}
		}
	})
	if err != nil && err != unix.ENOENT {
		return nil, err
	}
	return out, nil
}

// parseAlive reads the key of an element: an address and, in a register of its own, the protocol.
func parseAlive(item []byte) (aliveKey, bool) {
	for typ, data := range attributes(item) {
		if typ != unix.NFTA_SET_ELEM_KEY {
			continue
		}
		for typ, value := range attributes(data) {
			if n := len(value) - 4; typ == unix.NFTA_DATA_VALUE && n > 0 {
				addr, ok := netip.AddrFromSlice(value[:n])
				return aliveKey{addr, Transport(value[n])}, ok
			}
		}
	}
	return aliveKey{}, false
}

// counters adds the packets of a table's named counters to sum.
func (c *conn) counters(table string, family uint8, sum map[string]uint64) error {
	return c.dump(unix.NFT_MSG_GETOBJ, family, attributeName(unix.NFTA_OBJ_TABLE, table), func(_ byte, attrs []byte) {
		var name, of string
		var packets uint64
		for typ, data := range attributes(attrs) {
			switch typ {
			case unix.NFTA_OBJ_TABLE:
				of = text(data)
			case unix.NFTA_OBJ_NAME:
				name = text(data)
			case unix.NFTA_OBJ_DATA:
				for typ, value := range attributes(data) {
					if typ == unix.NFTA_COUNTER_PACKETS && len(value) == 8 {
						packets = binary.BigEndian.Uint64(value)
					}
				}
			}
		}
		if of == table {
			sum[name] += packets
		}
	})
}

func countersFrom(n map[string]uint64) Counters {
	return Counters{
		Matched: n["matched"], Served: n["served"], Stream: n["stream"], Answers: n["answers"], Unserved: n["unserved"],
		Limited: n["limited"], Bypassed: n["bypassed"], OutOfScope: n["scope"], Resolvers: n["resolvers"], Uplink: n["uplink"],
		Loopback: n["loopback"], LastResort: n["lastresort"], Upstream: n["upstream"], Probes: n["probes"], Direct: n["direct"],
		Stray: n["stray"],
	}
}

// setsOf returns the names of the sets of every table.
func (c *conn) setsOf() (map[leftover]map[string]bool, error) {
	out := map[leftover]map[string]bool{}
	err := c.dump(unix.NFT_MSG_GETSET, unix.NFPROTO_UNSPEC, nil, func(family byte, attrs []byte) {
		l, name := leftover{family: family}, ""
		for typ, data := range attributes(attrs) {
			switch typ {
			case unix.NFTA_SET_TABLE:
				l.name = text(data)
			case unix.NFTA_SET_NAME:
				name = text(data)
			}
		}
		if out[l] == nil {
			out[l] = map[string]bool{}
		}
		out[l][name] = true
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the nftables sets: %w", err)
	}
	return out, nil
}

func text(data []byte) string { return string(bytes.TrimRight(data, "\x00")) }

func join(words []string) string { return strings.Join(words, ", ") }
