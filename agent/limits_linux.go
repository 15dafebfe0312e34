package agent

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// monotonicUsec is CLOCK_MONOTONIC in microseconds, the clock that systemd compares with.
func monotonicUsec() int64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0 // does not happen: the clock is always there
	}
	return ts.Nano() / 1000
}

// raiseFileLimit lifts the soft limit of open files to the hard one and returns it: every question in flight holds a
// socket, and the soft limit of 1,024 that select(2) once needed would shed at a thousand of them.
func raiseFileLimit() (uint64, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("cannot read the limit of open files: %w", err)
	}
	if l.Cur < l.Max {
		soft := l.Cur
		l.Cur = l.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			return soft, fmt.Errorf("cannot raise the limit of open files from %d to %d: %w", soft, l.Max, err)
		}
	}
	return l.Cur, nil
}

// residentBytes is the memory of this process that is in RAM; 0: cannot be told.
func residentBytes() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}

// openFiles is the number of descriptors in use; 0: cannot be told.
func openFiles() int {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(fds)
}
