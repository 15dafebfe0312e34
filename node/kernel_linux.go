package node

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// KernelRelease returns what `uname -r` prints. It is for people: features are probed, never guessed from it.
func KernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("cannot read the kernel's release: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}
