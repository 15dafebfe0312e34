//go:build !linux

package node

import (
	"errors"
	"net/netip"
)

var errNotLinux = errors.New("can be read on Linux only")

// DefaultRouteInterfaces returns the names of the interfaces over which default routes lead; on Linux only.
func DefaultRouteInterfaces() (v4, v6 []string, err error) { return nil, nil, errNotLinux }

func routedLocally(netip.Addr) (bool, error) { return false, errNotLinux }

// KernelRelease returns what `uname -r` prints; on Linux only.
func KernelRelease() (string, error) { return "", errNotLinux }

// InUserNamespace reports whether this process is in a user namespace of its own; on Linux only.
func InUserNamespace() (bool, error) { return false, errNotLinux }

// ReadCgroupLimits returns the limits of this process's control groups; on Linux only.
func ReadCgroupLimits() (CgroupLimits, error) { return CgroupLimits{}, errNotLinux }
