package resolver

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// receiveQueue is the size of a socket's receive queue in bytes: some thousand
// small datagrams, which is a burst of every pod at once and a few ms of
// reading. More would not lose less, it would answer later.
const receiveQueue = 4 << 20

// sendQueue holds several batches of the largest replies, for devices that
// queue.
const sendQueue = 1 << 20

// prepareSocket sets what UDP and TCP sockets share, before bind.
func prepareSocket(fd int, v6 bool, mark uint32) error {
	if mark != 0 {
		// Without CAP_NET_ADMIN there is no interception either, and the mark
		// means nothing to anybody.
		err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark))
		if err != nil && !errors.Is(err, unix.EPERM) {
			return os.NewSyscallError("setsockopt SO_MARK", err)
		}
	}
	// The address need not be there yet: the interception adds a local route,
	// and one that is deleted and added again must not cost us the socket.
	if v6 {
		if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return os.NewSyscallError("setsockopt IPV6_V6ONLY", err)
		}
		return os.NewSyscallError("setsockopt IPV6_FREEBIND", unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1))
	}
	return os.NewSyscallError("setsockopt IP_FREEBIND", unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1))
}

// prepareDatagrams sets what only UDP sockets need. The queues are wishes: the
// kernel gives what it allows.
func prepareDatagrams(fd int, v6 bool) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveQueue) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveQueue)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendQueue) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendQueue)
	}
	// Neither set DF nor believe ICMP about the path: replies are small enough
	// for every path, and a forged "too big" must not fragment them.
	if v6 {
		return os.NewSyscallError("setsockopt IPV6_MTU_DISCOVER",
			unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_OMIT))
	}
	return os.NewSyscallError("setsockopt IP_MTU_DISCOVER",
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_OMIT))
}
