package agent

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// manager is a service manager's end of the socket.
func manager(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func heard(t *testing.T, c *net.UnixConn) []string {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		t.Fatalf("the service manager heard nothing: %v", err)
	}
	return strings.Split(string(b[:n]), "\n")
}

func env(kv ...string) func(string) string {
	return func(key string) string {
		for i := 0; i < len(kv); i += 2 {
			if kv[i] == key {
				return kv[i+1]
			}
		}
		return ""
	}
}

// Red when: newNotifier refuses names that begin with '@', or a value is sent without its variable.
func TestNotifyReachesPathAndAbstractSocket(t *testing.T) {
	for _, name := range []string{
		filepath.Join(t.TempDir(), "notify"),
		"@dnslet-notify-test-" + strconv.Itoa(os.Getpid()),
	} {
		m := manager(t, name)
		n, err := newNotifier(env("NOTIFY_SOCKET", name))
		if err != nil {
			t.Fatal(err)
		}
		defer n.close()
		for _, step := range []struct {
			send func() error
			want []string
		}{
			{func() error { return n.ready("serving\nREADY=0") }, []string{"READY=1", "STATUS=serving READY=0"}},
			{n.stopping, []string{"STOPPING=1", "STATUS=draining"}},
			{n.alive, []string{"WATCHDOG=1"}},
		} {
			if err := step.send(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(step.want, heard(t, m)); diff != "" {
				t.Errorf("%s: datagram differs (-want +got):\n%s", name, diff)
			}
		}
		if err := n.reloading(); err != nil {
			t.Fatal(err)
		}
		got := heard(t, m)
		if len(got) != 2 || got[0] != "RELOADING=1" || !strings.HasPrefix(got[1], "MONOTONIC_USEC=") || got[1] == "MONOTONIC_USEC=0" {
			t.Errorf("reload was announced as %q", got)
		}
	}
}

// Red when: WATCHDOG_PID is not compared, or the interval is not half of the period.
func TestNotifyWatchdogIsOursOnly(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "notify")
	manager(t, sock)
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"30000000", "", 15 * time.Second},
		{"30000000", strconv.Itoa(os.Getpid()), 15 * time.Second},
		{"30000000", "1", 0},
		{"", "", 0},
		{"-5", "", 0},
		{"soon", "", 0},
	} {
		n, err := newNotifier(env("NOTIFY_SOCKET", sock, "WATCHDOG_USEC", c.usec, "WATCHDOG_PID", c.pid))
		if err != nil {
			t.Fatal(err)
		}
		if got := n.interval(); got != c.want {
			t.Errorf("WATCHDOG_USEC=%s WATCHDOG_PID=%s: interval %v, want %v", c.usec, c.pid, got, c.want)
		}
		n.close()
	}
}

// Red when: an unreachable socket gives a nil notifier, or a silent notifier reports an error.
func TestNotifyWithoutServiceManager(t *testing.T) {
	for name, getenv := range map[string]func(string) string{
		"none":        env(),
		"unreachable": env("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone")),
		"vsock":       env("NOTIFY_SOCKET", "vsock:2:1"),
	} {
		n, err := newNotifier(getenv)
		if (err != nil) != (name != "none") {
			t.Errorf("%s: error %v", name, err)
		}
		if err := n.ready("serving"); err != nil {
			t.Errorf("%s: a notifier without a socket failed: %v", name, err)
		}
		n.close()
	}
}
