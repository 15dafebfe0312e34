//go:build !linux

package agent

import (
	"errors"
	"net/netip"
	"syscall"
)

var errNotLinux = errors.New("needs Linux")

func monotonicUsec() int64 { return 0 }

func raiseFileLimit() (uint64, error) { return 0, errNotLinux }

func residentBytes() int64 { return 0 }

func openFiles() int { return 0 }

func portOwner(netip.AddrPort, ...string) string { return "" }

func freebind(string, string, syscall.RawConn) error { return nil }
