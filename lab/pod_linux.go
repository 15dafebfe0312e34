package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/dnslet/dnslet/lab/netns"
	"golang.org/x/sys/unix"
)

// Pod is a pod of the node under test. Its methods may be called by anybody at any time.
type Pod struct {
	Name string
	Addr netip.Addr
	NS   *netns.NS
}

func (c *Cluster) addPod(name string, addr netip.Addr) (*Pod, error) {
	ns, err := c.addHost(c.Node, name, addr)
	if err != nil {
		return nil, err
	}
	p := &Pod{Name: name, Addr: addr, NS: ns}
	if err := ns.Prepare(p.mountEtc); err != nil {
		return nil, fmt.Errorf("cannot give pod %s its /etc: %w", name, err)
	}
	return p, nil
}

// Start starts a program in the pod: in its network, and with its resolv.conf, hosts and nsswitch.conf. It is killed when the
// cluster is closed. The caller waits for it.
func (p *Pod) Start(cmd *exec.Cmd) error { return p.NS.Start(cmd) }

// Dial opens a socket in the pod.
func (p *Pod) Dial(network string, to netip.AddrPort) (net.Conn, error) {
	var c net.Conn
	err := p.NS.Do(func() (err error) {
		c, err = (&net.Dialer{Timeout: stubTimeout}).Dial(network, to.String())
		return err
	})
	return c, err
}

// etc are the files that decide how a program in the pod resolves names, as the kubelet and a Debian image write them.
func (p *Pod) etc() map[string]string {
	return map[string]string{
		"resolv.conf":   "search " + strings.Join(SearchList, " ") + "\nnameserver " + VIP.String() + "\noptions ndots:5\n",
		"hosts":         "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" + p.Addr.String() + "\t" + p.Name + "\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	}
}

// mountEtc runs on the thread that starts the pod's programs: it gives that thread a mount namespace, and lays the pod's files
// over those of the machine there. The files are on a tmpfs that is taken off the tree again at once, so that nothing is on
// disk, and nothing is left when the last process of the pod is gone.
func (p *Pod) mountEtc() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("cannot unshare the mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make the mounts private: %w", err)
	}
	stage := os.TempDir()
	if err := unix.Mount("tmpfs", stage, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("cannot mount a tmpfs: %w", err)
	}
	var errs []error
	for name, text := range p.etc() {
		file, target := filepath.Join(stage, name), filepath.Join("/etc", name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			errs = append(errs, err)
			continue
		}
		// A machine without nsswitch.conf or hosts has programs that do without.
		if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil && (name == "resolv.conf" || !errors.Is(err, fs.ErrNotExist)) {
			errs = append(errs, fmt.Errorf("cannot mount %s: %w", target, err))
		}
	}
	// glibc would ask the machine's nscd first.
	if err := unix.Mount("tmpfs", "/run/nscd", "tmpfs", 0, "mode=755"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fmt.Errorf("cannot hide nscd: %w", err))
	}
	if err := unix.Unmount(stage, unix.MNT_DETACH); err != nil {
		errs = append(errs, fmt.Errorf("cannot take the tmpfs off: %w", err))
	}
	return errors.Join(errs...)
}
