package resolver

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/dnslet/dnslet/wire"
)

// maxHostTTL is the largest TTL that is one (RFC 2181 section 8).
const maxHostTTL = (1<<31 - 1) * time.Second

// host is one name of the configuration with its replies ready.
type host struct {
	a, aaaa, ptr *wire.Reply // nil: NODATA
	nodata       *wire.Reply
}

// host returns the reply for a name that is configured, or nil.
func (z *Zones) host(q *wire.Query) *wire.Reply {
	if q.Class != wire.ClassIN {
		return nil
	}
	h := z.hosts[string(wire.KeyName(q.Key()))]
	if h == nil {
		return nil
	}
	var r *wire.Reply
	switch q.Type {
	case wire.TypeA:
		r = h.a
	case wire.TypeAAAA:
		r = h.aaaa
	case wire.TypePTR:
		r = h.ptr
	case wire.TypeANY:
		return anyType
	}
	if r == nil {
		return h.nodata
	}
	return r
}

// addHost indexes h under its name and under the reverse names of its addresses.
func (z *Zones) addHost(h Host) error {
	name, err := foldedName(h.Name)
	if err != nil {
		return err
	}
	switch {
	case len(h.Addresses) == 0:
		return errors.New("no address")
	case h.TTL < 0 || h.TTL > maxHostTTL:
		return fmt.Errorf("TTL %v is not within 0 and %v", h.TTL, maxHostTTL)
	}
	ttl := uint32(h.TTL / time.Second)
	entry := z.hostEntry(name, ttl)
	if entry.a != nil || entry.aaaa != nil {
		return errors.New("given twice")
	}
	for _, addr := range h.Addresses {
		if !addr.IsValid() || addr.Zone() != "" {
			return fmt.Errorf("%v is no address for a record", addr)
		}
		reverse := z.hostEntry(reverseName(addr.Unmap()), ttl)
		if reverse.ptr == nil {
			reverse.ptr = authoritative(wire.NameReply(wire.TypePTR, []byte(name), ttl))
		}
	}
	entry.a, entry.aaaa = addressReply(wire.TypeA, h.Addresses, ttl), addressReply(wire.TypeAAAA, h.Addresses, ttl)
	return nil
}

// addressReply is nil where there is no address of type t.
func addressReply(t wire.Type, addrs []netip.Addr, ttl uint32) *wire.Reply {
	r := wire.AddressReply(t, addrs, ttl)
	if r.AN == 0 {
		return nil
	}
	return authoritative(r)
}

func (z *Zones) hostEntry(name string, ttl uint32) *host {
	h := z.hosts[name]
	if h == nil {
		h = &host{nodata: authoritative(wire.NegativeReply(wire.RCodeNoError, []byte(name), ttl))}
		z.hosts[name] = h
	}
	return h
}

// reverseName is the wire name of addr's PTR record (RFC 1035 section 3.5, RFC
// 3596 section 2.5).
func reverseName(addr netip.Addr) string {
	var b []byte
	label := func(s string) { b = append(append(b, byte(len(s))), s...) }
	if addr.Is4() {
		a := addr.As4()
		for i := 3; i >= 0; i-- {
			label(strconv.Itoa(int(a[i])))
		}
		label("in-addr")
	} else {
		a := addr.As16()
		for i := 15; i >= 0; i-- {
			label(strconv.FormatUint(uint64(a[i]&15), 16))
			label(strconv.FormatUint(uint64(a[i]>>4), 16))
		}
		label("ip6")
	}
	label("arpa")
	return string(append(b, 0))
}
