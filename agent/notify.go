package agent

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// notifier tells the service manager what the agent is doing: sd_notify(3), a datagram of VARIABLE=VALUE lines on a unix
// socket. Its zero value, as outside of systemd, says nothing to nobody.
type notifier struct {
	conn     *net.UnixConn
	watchdog time.Duration // the service manager ends us after this long without WATCHDOG=1; 0: it does not watch
}

// newNotifier reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID through getenv. A socket that cannot be reached is an
// error for the log, not a reason to stay down: the notifier returned with it is usable and silent.
func newNotifier(getenv func(string) string) (*notifier, error) {
	path := getenv("NOTIFY_SOCKET")
	if path == "" {
		return &notifier{}, nil
	}
	// systemd knows paths, abstract names ("@...", as package net writes them, too) and, for virtual machines, vsock.
	if path[0] != '/' && path[0] != '@' {
		return &notifier{}, fmt.Errorf("cannot use NOTIFY_SOCKET %q: want a path or an abstract name", path)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return &notifier{}, fmt.Errorf("cannot reach the service manager: %w", err)
	}
	n := &notifier{conn: conn}
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	pid := getenv("WATCHDOG_PID")
	if err == nil && usec > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.watchdog = time.Duration(usec) * time.Microsecond
	}
	return n, nil
}

// interval is how often WATCHDOG=1 is due, half of what the service manager allows as sd_watchdog_enabled(3) advises;
// 0: never.
func (n *notifier) interval() time.Duration { return n.watchdog / 2 }

// send sends lines in one datagram. It never blocks for long: a service manager that does not read must not hold up DNS.
func (n *notifier) send(lines ...string) error {
	if n.conn == nil {
		return nil
	}
	if err := n.conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		return fmt.Errorf("cannot notify the service manager: %w", err)
	}
	if _, err := n.conn.Write([]byte(strings.Join(lines, "\n"))); err != nil {
		return fmt.Errorf("cannot notify the service manager: %w", err)
	}
	return nil
}

func (n *notifier) ready(status string) error { return n.send("READY=1", statusLine(status)) }

// reloading begins a reload; ready ends it. Type=notify-reload wants the monotonic time of the beginning.
func (n *notifier) reloading() error {
	return n.send("RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(monotonicUsec(), 10))
}

func (n *notifier) stopping() error { return n.send("STOPPING=1", statusLine("draining")) }
func (n *notifier) alive() error    { return n.send("WATCHDOG=1") }

func (n *notifier) close() {
	if n.conn != nil {
		n.conn.Close()
	}
}

// statusLine keeps text on one line: a line break would begin another assignment.
func statusLine(text string) string {
	return "STATUS=" + strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, text)
}
