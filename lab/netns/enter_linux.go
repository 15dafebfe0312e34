package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Available is nil when this process can make network namespaces. It tries once, and remembers.
func Available() error { return available() }

var available = sync.OnceValue(func() error {
	ns, err := New()
	if err != nil {
		return err
	}
	return ns.Close()
})

// Enter brings the program to where it can make network namespaces. It is called early in main, before anything that should
// happen once.
//
// inside is true where namespaces can be made already: as root, or in the copy that an outer Enter started. Otherwise Enter
// starts the same program, with the same arguments and streams, inside a new user, network and mount namespace in which
// this user is root, passes termination signals on, waits for it and returns its exit code: the caller exits with that. err
// (wrapping ErrUnavailable) says that neither is possible here, why, and what would help; inside is then false too.
func Enter() (inside bool, code int, err error) {
	if os.Getenv(insideEnv) != "" {
		if err := loopbackUp(); err != nil {
			return false, 0, fmt.Errorf("%w: inside a user namespace: %w%s", ErrUnavailable, err, remedy(err))
		}
		if err := Available(); err != nil {
			return false, 0, err
		}
		return true, 0, nil
	}
	if Available() == nil {
		return true, 0, nil
	}
	code, err = again()
	if err != nil {
		return false, 0, fmt.Errorf("%w: cannot start in a user namespace: %w%s", ErrUnavailable, err, remedy(err))
	}
	return false, code, nil
}

// again runs this program inside a user namespace and returns its exit code. The network namespace is made together with the
// user namespace, so that every thread of the copy may return to it (setns asks for rights in the namespace's own user
// namespace); the mount namespace lets it bind-mount what pods see as /etc.
func again() (int, error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	runtime.LockOSThread() // the parent-death signal goes by the thread that forked
	defer runtime.UnlockOSThread()

	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		for {
			select {
			case s := <-signals:
				if s != syscall.SIGINT || !fromTerminal() {
					_ = cmd.Process.Signal(s) // fails only when the copy has ended, which Wait reports
				}
			case <-ended:
				return
			}
		}
	}()
	err := cmd.Wait()
	close(ended)
	<-passed
	return exitCode(cmd.ProcessState, err)
}

// fromTerminal reports whether a Ctrl-C reaches this process and its copy alike: the terminal sends it to the whole foreground
// group, and a program that hears it twice may take the second one for impatience.
func fromTerminal() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

func exitCode(state *os.ProcessState, err error) (int, error) {
	if state == nil {
		return 0, err
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return state.ExitCode(), nil
}

// loopbackUp sets the loopback of the copy's own network namespace up: the program expects 127.0.0.1 to work.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("cannot find link lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("cannot set link lo up: %w", err)
	}
	return nil
}

// remedy names the switches that are known to forbid user namespaces, as far as this machine has them set. It begins with
// "; " or is empty.
func remedy(err error) string {
	var found []string
	for _, s := range []struct{ path, forbids, remedy string }{
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
			"AppArmor forbids it: sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "the kernel forbids it: sysctl kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/user/max_user_namespaces", "0", "the limit is 0: sysctl user.max_user_namespaces=10000"},
		{"/proc/sys/user/max_net_namespaces", "0", "the limit is 0: sysctl user.max_net_namespaces=10000"},
	} {
		value, readErr := os.ReadFile(s.path)
		if readErr == nil && strings.TrimSpace(string(value)) == s.forbids {
			found = append(found, s.remedy)
		}
	}
	switch {
	case len(found) > 0:
		return "; " + strings.Join(found, "; ") + "; or run as root"
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.ENOSYS):
		return "; run as root, or in a container with the capabilities SYS_ADMIN and NET_ADMIN or without its seccomp filter"
	}
	return ""
}
