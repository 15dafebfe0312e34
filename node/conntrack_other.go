//go:build !linux

package node

// ReadConntrack reads the counters of connection tracking; on Linux only.
func ReadConntrack() (Conntrack, error) { return Conntrack{}, errNotLinux }

// NewEntries counts the entries that connection tracking makes; on Linux only.
type NewEntries struct{}

// WatchNewEntries counts the entries that connection tracking makes; on Linux only.
func WatchNewEntries(func(Flow) bool) (*NewEntries, error) { return nil, errNotLinux }

// Count returns how many entries have been made; on Linux only.
func (*NewEntries) Count() (uint64, error) { return 0, errNotLinux }

// Close ends the watch.
func (*NewEntries) Close() error { return nil }
