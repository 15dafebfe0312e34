package agent

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// portOwner says in words which process has addr by the first of protocols ("udp", "tcp") by which it is held, as far as
// /proc lets us see; "" if nobody, or if it cannot be told.
func portOwner(addr netip.AddrPort, protocols ...string) string {
	inodes := map[string]bool{}
	for _, p := range protocols {
		sockets(p, addr, inodes)
		sockets(p+"6", addr, inodes)
		if len(inodes) > 0 {
			return processWith(inodes)
		}
	}
	return ""
}

// processWith says which process has a socket with one of the inodes.
func processWith(inodes map[string]bool) string {
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return ""
	}
	for _, proc := range procs {
		fds, err := os.ReadDir(proc + "/fd")
		if err != nil {
			continue // somebody else's, and we are not root
		}
		for _, fd := range fds {
			link, err := os.Readlink(proc + "/fd/" + fd.Name())
			if err != nil || !inodes[strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]")] {
				continue
			}
			comm, err := os.ReadFile(proc + "/comm")
			if err != nil {
				continue
			}
			return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(comm)), filepath.Base(proc))
		}
	}
	return "another process (root can see which)"
}

// tcpListen is the state of a listening socket in /proc/net/tcp (TCP_LISTEN of the kernel's enum).
const tcpListen = "0A"

// sockets adds the inodes of the sockets that hold addr, itself or as part of all addresses, according to /proc/net.
func sockets(table string, addr netip.AddrPort, inodes map[string]bool) {
	f, err := os.Open("/proc/net/" + table)
	if err != nil {
		return
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		field := strings.Fields(lines.Text())
		if len(field) < 10 || strings.HasPrefix(table, "tcp") && field[3] != tcpListen {
			continue
		}
		local, ok := parseLocal(field[1])
		if ok && local.Port() == addr.Port() && (local.Addr().Unmap() == addr.Addr().Unmap() || local.Addr().IsUnspecified()) {
			inodes[field[9]] = true
		}
	}
}

// parseLocal reads an address as /proc/net prints it: 32-bit words of the machine's own order, then the port.
func parseLocal(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || len(host)%8 != 0 {
		return netip.AddrPort{}, false
	}
	var raw []byte
	for ; host != ""; host = host[8:] {
		word, err := strconv.ParseUint(host[:8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, false
		}
		raw = binary.NativeEndian.AppendUint32(raw, uint32(word))
	}
	a, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a, uint16(p)), ok
}

// freebind lets the prober's IPv6 address be bound: no interface holds it.
func freebind(network, _ string, c syscall.RawConn) error {
	if !strings.HasSuffix(network, "6") {
		return nil
	}
	var failed error
	if err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
	}); err != nil {
		return err
	}
	return failed
}
