package node

import (
	"errors"
	"net/netip"
)

// Conntrack is what connection tracking has counted in one network namespace since it was made, and how full its table is.
// The counters are the kernel's 32-bit ones, added over all CPUs; they wrap, and Sub is right across a wrap.
type Conntrack struct {
	Found         uint32 // searches for a free tuple that found it taken
	Invalid       uint32 // packets that could not be tracked
	Insert        uint32 // entries made over ctnetlink only; the packet path does not count here: see NewEntries
	InsertFailed  uint32 // entries that could not be confirmed; before Linux 5.10 also clashes that were resolved
	Drop          uint32 // packets dropped because tracking failed
	EarlyDrop     uint32 // living entries evicted to make room
	Error         uint32 // malformed packets and ICMP errors of unknown flows
	SearchRestart uint32 // lookups begun again because the table was resized
	ClashResolve  uint32 // two entries for one flow, the second kept for one second
	ChainTooLong  uint32 // entries refused for the length of their hash chain

	// CountsClashes says that this kernel counts ClashResolve (Linux 5.10 and later). Zero means nothing otherwise.
	CountsClashes bool

	Entries    uint32 // in the table of this namespace now
	MaxEntries uint32 // the limit for each namespace, one number for the whole machine
}

// Sub returns the counters gained since before; Entries and MaxEntries stay as they are in c.
func (c Conntrack) Sub(before Conntrack) Conntrack {
	c.Found -= before.Found
	c.Invalid -= before.Invalid
	c.Insert -= before.Insert
	c.InsertFailed -= before.InsertFailed
	c.Drop -= before.Drop
	c.EarlyDrop -= before.EarlyDrop
	c.Error -= before.Error
	c.SearchRestart -= before.SearchRestart
	c.ClashResolve -= before.ClashResolve
	c.ChainTooLong -= before.ChainTooLong
	return c
}

// Flow is the original direction of a connection-tracking entry.
type Flow struct {
	Protocol uint8 // IANA number: 6 TCP, 17 UDP
	Src, Dst netip.AddrPort
}

// ErrOverrun is returned when connection tracking made entries faster than they were read, so that a count is too low.
var ErrOverrun = errors.New("events of connection tracking were lost")
