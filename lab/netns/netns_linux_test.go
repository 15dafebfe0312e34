package netns

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func newNS(t *testing.T) *NS {
	t.Helper()
	Require(t)
	ns, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func inode(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// Red when: Do does not call enter.
func TestDoRunsInside(t *testing.T) {
	ns := newNS(t)
	var inside uint64
	err := ns.Do(func() error {
		f, err := current()
		if err != nil {
			return err
		}
		defer f.Close()
		inside = inode(t, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := inode(t, ns.file); inside != want {
		t.Errorf("Do ran in namespace %d, want %d", inside, want)
	}
}

// Whatever fn does, no thread that other goroutines may get is left in a foreign namespace.
//
// Red when: Do unlocks its thread without going home.
func TestDoLeavesNoThreadBehind(t *testing.T) {
	ns := newNS(t)
	boom := errors.New("boom")
	for range 50 {
		if err := ns.Do(func() error { return boom }); err != boom {
			t.Fatalf("Do = %v, want the error of the function", err)
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Error("Do swallowed a panic")
				}
			}()
			_ = ns.Do(func() error { panic("here") })
		}()
	}
	there, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(ns.file.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var inside int
	for _, task := range tasks {
		if at, err := os.Readlink(task); err == nil && at == there {
			inside++
		}
	}
	if inside != 1 {
		t.Errorf("%d threads are in the namespace, want 1: the keeper", inside)
	}
}

// Red when: Start forks from a thread of Do, or without a parent-death signal.
func TestCloseKillsWhatWasStarted(t *testing.T) {
	ns := newNS(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestWaitForever$")
	cmd.Env = append(os.Environ(), "NETNS_TEST_WAIT=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	at := make([]byte, 256)
	n, err := stdout.Read(at)
	if err != nil {
		t.Fatal(err)
	}
	if want := strconv.FormatUint(inode(t, ns.file), 10); !strings.Contains(string(at[:n]), want) {
		t.Errorf("the process runs in %q, want %s", at[:n], want)
	}
	ns.Close()
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("after Close the process ended with %v, want killed", err)
	}
	if err := ns.Start(exec.Command("/bin/true")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Start after Close = %v, want os.ErrClosed", err)
	}
}

// TestWaitForever is the process that TestCloseKillsWhatWasStarted starts.
func TestWaitForever(t *testing.T) {
	if os.Getenv("NETNS_TEST_WAIT") == "" {
		return
	}
	at, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString(at)
	io.Copy(io.Discard, os.Stdin)
}

// Two hosts and a router in between, addressed the way pods are: /32 addresses, a link-local gateway and permanent
// neighbours. IPv6 the same way.
//
// Red when: AddRoute forgets OnLink, AddNeigh the MAC, or AddAddr NODAD.
func TestRoutedPods(t *testing.T) {
	router, a, b := newNS(t), newNS(t), newNS(t)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(router.Sysctl("net.ipv4.ip_forward", "1"))
	check(router.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	for i, host := range []*NS{a, b} {
		port := "port" + strconv.Itoa(i)
		check(Veth(host, "eth0", router, port))
		inner, err := host.MAC("eth0")
		check(err)
		outer, err := router.MAC(port)
		check(err)
		for _, family := range []struct{ addr, gw, def string }{
			{"10.9.0." + strconv.Itoa(i+1), "169.254.1.1", "0.0.0.0/0"},
			{"fd00:9::" + strconv.Itoa(i+1), "fe80::1", "::/0"},
		} {
			addr, gw := netip.MustParseAddr(family.addr), netip.MustParseAddr(family.gw)
			host32 := netip.PrefixFrom(addr, addr.BitLen())
			check(host.AddAddr("eth0", host32))
			check(host.AddNeigh("eth0", gw, outer))
			check(host.AddRoute(Route{Dst: netip.MustParsePrefix(family.def), Via: gw, Link: "eth0", OnLink: true}))
			check(router.AddNeigh(port, addr, inner))
			check(router.AddRoute(Route{Dst: host32, Link: port}))
		}
	}
	for _, to := range []string{"10.9.0.2", "fd00:9::2"} {
		var server net.PacketConn
		check(b.Do(func() (err error) {
			server, err = net.ListenPacket("udp", net.JoinHostPort(to, "0"))
			return err
		}))
		defer server.Close()
		var client net.Conn
		check(a.Do(func() (err error) {
			client, err = net.Dial("udp", server.LocalAddr().String())
			return err
		}))
		defer client.Close()
		check(server.SetReadDeadline(time.Now().Add(5 * time.Second)))
		_, err := client.Write([]byte("hello"))
		check(err)
		buf := make([]byte, 16)
		n, _, err := server.ReadFrom(buf)
		check(err)
		if string(buf[:n]) != "hello" {
			t.Errorf("%s: got %q", to, buf[:n])
		}
	}
}

// Red when: Local routes go to the main table.
func TestLocalRoute(t *testing.T) {
	ns := newNS(t)
	r := Route{Dst: netip.MustParsePrefix("169.254.53.52/30"), Link: "lo", Local: true}
	listen := func() error {
		return ns.Do(func() error {
			c, err := net.ListenPacket("udp4", "169.254.53.53:0")
			if err != nil {
				return err
			}
			return c.Close()
		})
	}
	if err := listen(); err == nil {
		t.Fatal("the address is local before the route")
	}
	if err := ns.AddRoute(r); err != nil {
		t.Fatal(err)
	}
	if err := listen(); err != nil {
		t.Errorf("with the route: %v", err)
	}
	if err := ns.DelRoute(r); err != nil {
		t.Fatal(err)
	}
	if err := listen(); err == nil {
		t.Error("the address is local after the route")
	}
}

// Red when: Sysctl writes outside of Do.
func TestSysctlIsOfTheNamespace(t *testing.T) {
	a, b := newNS(t), newNS(t)
	if err := a.Sysctl("net.ipv4.ip_default_ttl", "77"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ns   *NS
		want string
	}{{a, "77"}, {b, "64"}} {
		if got, err := c.ns.ReadSysctl("net.ipv4.ip_default_ttl"); err != nil || got != c.want {
			t.Errorf("ttl = %q, %v, want %s", got, err, c.want)
		}
	}
}

// An ordinary user gets a whole machine of namespaces: Main starts the tests again as root of a user namespace.
//
// Red when: again does not make the network namespace together with the user namespace.
func TestMainAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 || os.Getenv(insideEnv) != "" {
		t.Skip("this test run is that of an ordinary user already")
	}
	binary := publicCopy(t)
	cmd := exec.Command(binary, "-test.v", "-test.run=^(TestDo|TestRouted|TestClose|TestWait|TestLocal|TestSysctl)")
	cmd.Dir = filepath.Dir(binary)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "SKIPPED") && strings.Contains(string(out), "sysctl ") { // a switch says no
		t.Skipf("this kernel forbids them: %s", out)
	}
	if err != nil {
		t.Fatalf("as uid 1000: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "SKIP") || strings.Count(string(out), "--- PASS") < 6 {
		t.Errorf("as uid 1000 not everything ran:\n%s", out)
	}
}

// Where user namespaces are forbidden, Main says why, names the switch, skips what needs them and succeeds.
//
// Red when: Main returns after the message, or remedy does not look at the limit.
func TestMainWhereForbidden(t *testing.T) {
	if os.Getuid() != 0 || os.Getenv(insideEnv) != "" {
		t.Skip("it takes root to make a place where it is forbidden")
	}
	binary := publicCopy(t)
	cmd := exec.Command(binary, "-test.v", "-test.run=^TestForbid$")
	cmd.Env = append(os.Environ(), insideEnv+"=1", "NETNS_TEST_FORBID="+binary)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 2000}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"SKIPPED: the tests that need network namespaces", "sysctl user.max_user_namespaces=", "--- SKIP: TestSysctl"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
}

// TestForbid is the process of TestMainWhereForbidden: root of a user namespace whose limit it sets to nothing, so that uid
// 1000 there finds user namespaces forbidden.
func TestForbid(t *testing.T) {
	binary := os.Getenv("NETNS_TEST_FORBID")
	if binary == "" {
		return
	}
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-test.v", "-test.run=^TestSysctl")
	cmd.Env = []string{"HOME=/"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// publicCopy copies the test binary to where every user may start it.
func publicCopy(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "netns-user")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "netns.test")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(binary, self, 0o755)); err != nil {
		t.Fatal(err)
	}
	return binary
}
