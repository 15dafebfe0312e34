package upstream

import "golang.org/x/sys/unix"

// maxInFlight is a group's share of the descriptors this process may open.
func maxInFlight() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return DefaultMaxInFlight / 16
	}
	return int(max(min(r.Cur/4, DefaultMaxInFlight), 16))
}
