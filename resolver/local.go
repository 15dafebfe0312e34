package resolver

import (
	"bytes"
	"net/netip"

	"github.com/dnslet/dnslet/wire"
)

// What is answered without a cache or an upstream: the probe, the special-use
// names of RFC 6761, and type ANY. Zone transfers, CHAOS and unknown opcodes
// have been turned away by wire.Query.Parse.

// Names as they are in keys: folded and in wire form.
var (
	probeWire     = []byte("\x05probe\x06dnslet\x07invalid\x00")
	invalidWire   = []byte("\x07invalid\x00")
	localhostWire = []byte("\x09localhost\x00")
)

// localTTL is the TTL of special-use names, in seconds. They never change; an
// hour keeps whoever caches behind us from asking all the time.
const localTTL = 3600

// The replies, built once and then only read.
var (
	// A TTL of 0, so that no cache on the way ever stands in for the path that
	// is probed.
	probeA     = authoritative(wire.AddressReply(wire.TypeA, []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 53})}, 0))
	probeOther = authoritative(wire.NegativeReply(wire.RCodeNoError, probeWire, 0))

	// RFC 6761 section 6.3: the loopback addresses, for all names below, too.
	localhostA     = authoritative(wire.AddressReply(wire.TypeA, []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, localTTL))
	localhostAAAA  = authoritative(wire.AddressReply(wire.TypeAAAA, []netip.Addr{netip.IPv6Loopback()}, localTTL))
	localhostOther = authoritative(wire.NegativeReply(wire.RCodeNoError, localhostWire, localTTL))

	// RFC 6761 section 6.4: no such name, ever.
	invalidName = authoritative(wire.NegativeReply(wire.RCodeNXDomain, invalidWire, localTTL))

	// RFC 8482 section 4.2: one HINFO stands for "all records".
	anyType = authoritative(wire.AnyReply(localTTL))
)

// authoritative marks r as the word of who owns the name, as old stubs want it.
func authoritative(r wire.Reply) *wire.Reply {
	r.Flags |= wire.FlagAA
	return &r
}

// local returns the reply to a question that is answered here, or nil. The
// caller must not change it.
func local(q *wire.Query) *wire.Reply {
	if q.Class != wire.ClassIN && q.Class != wire.ClassANY {
		return nil
	}
	if q.Type == wire.TypeANY {
		return anyType
	}
	name := wire.KeyName(q.Key())
	switch {
	case bytes.Equal(name, probeWire):
		if q.Type == wire.TypeA {
			return probeA
		}
		return probeOther
	case below(name, invalidWire):
		return invalidName
	case below(name, localhostWire):
		switch q.Type {
		case wire.TypeA:
			return localhostA
		case wire.TypeAAAA:
			return localhostAAAA
		}
		return localhostOther
	}
	return nil
}

// below reports whether name is zone or a name below it.
func below(name, zone []byte) bool {
	if !bytes.HasSuffix(name, zone) {
		return false
	}
	for len(name) > len(zone) {
		name = name[1+int(name[0]):]
	}
	return len(name) == len(zone)
}
