package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NS is one network namespace. Its methods may be called from several goroutines at once.
type NS struct {
	file   *os.File        // keeps the namespace and lets other threads enter it
	handle *netlink.Handle // route netlink of this namespace
	jobs   chan job        // to the keeper
	quit   chan struct{}   // closed by Close
	done   chan struct{}   // closed when the keeper has ended
	close  sync.Once
}

// job is a function for the keeper's thread, and where its error goes.
type job struct {
	fn  func() error
	err chan<- error
}

// New makes a network namespace with its loopback up and nothing else in it. The caller closes it.
func New() (*NS, error) {
	ns := &NS{jobs: make(chan job), quit: make(chan struct{}), done: make(chan struct{})}
	ready := make(chan error, 1)
	onThread(func() { ns.keep(ready) })
	if err := <-ready; err != nil {
		return nil, err
	}
	return ns, nil
}

// onThread runs fn on a goroutine that is locked to its thread. Unless fn unlocks it, the thread ends with fn. It is never the
// main thread: that one would live on in whatever namespace fn left it, and /proc/self shows the main thread's.
func onThread(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		locked := make(chan struct{})
		go func() {
			runtime.LockOSThread() // another thread, since this one is taken
			close(locked)
			fn()
		}()
		<-locked
		runtime.UnlockOSThread()
	}()
}

// keep runs on the thread that lives in the namespace from birth to Close. Processes are forked from it, because a
// parent-death signal is sent when the *thread* that forked ends, and a thread of Do may be thrown away at any time.
func (ns *NS) keep(ready chan<- error) {
	defer close(ns.done)
	if err := ns.unshare(); err != nil {
		ready <- err
		return
	}
	defer ns.file.Close()
	defer ns.handle.Close()
	ready <- nil
	for {
		select {
		case j := <-ns.jobs:
			j.err <- j.fn()
		case <-ns.quit:
			return
		}
	}
}

func (ns *NS) unshare() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("%w: cannot unshare the network: %w%s", ErrUnavailable, err, remedy(err))
	}
	file, err := current()
	if err != nil {
		return err
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		file.Close()
		return fmt.Errorf("cannot open route netlink: %w", err)
	}
	ns.file, ns.handle = file, handle
	if err := ns.SetUp("lo"); err != nil {
		handle.Close()
		file.Close()
		return err
	}
	return nil
}

// current opens the namespace of the calling thread.
func current() (*os.File, error) {
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("cannot open the network namespace of this thread: %w", err)
	}
	return file, nil
}

// Close gives the namespace up. What Start started in it is killed; the kernel removes links, rules and connections once the
// last socket that was opened in it is closed too. Closing twice is harmless.
func (ns *NS) Close() error {
	ns.close.Do(func() { close(ns.quit) })
	<-ns.done
	return nil
}

// Do runs fn on a thread that is inside the namespace for the time of the call. Sockets made by fn stay in the namespace and
// may be used anywhere afterwards; goroutines that fn starts do not run in it. fn must not end its goroutine
// (testing's FailNow does); a panic of fn is passed on to the caller.
func (ns *NS) Do(fn func() error) error {
	type outcome struct {
		err   error
		panic any
	}
	done := make(chan outcome, 1)
	onThread(func() {
		out := outcome{err: errors.New("the function ended its goroutine")}
		defer func() { done <- out }()
		home, err := current()
		if err != nil {
			out.err = err
			return
		}
		defer home.Close()
		if err := ns.enter(); err != nil {
			out.err = err // the thread may be anywhere: it is not unlocked and ends here
			return
		}
		defer func() {
			if p := recover(); p != nil {
				out.panic = p
			}
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
		}()
		out.err = fn()
	})
	out := <-done
	if out.panic != nil {
		panic(out.panic)
	}
	return out.err
}

func (ns *NS) enter() error {
	if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("cannot enter the network namespace: %w", err)
	}
	return nil
}

// Start starts the process inside the namespace. It is killed (SIGKILL) when the namespace is closed or this process ends;
// any other parent-death signal asked for in SysProcAttr is kept. The caller waits for it.
func (ns *NS) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if cmd.SysProcAttr.Pdeathsig == 0 {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := ns.Prepare(cmd.Start); err != nil {
		return fmt.Errorf("cannot start %s in the namespace: %w", cmd.Path, err)
	}
	return nil
}

// Prepare runs fn on the thread from which Start forks. What fn changes of its thread (a mount namespace of its own, say)
// stays, for every process that is started afterwards and for nobody else. fn returns soon, and neither panics nor ends its
// goroutine.
func (ns *NS) Prepare(fn func() error) error {
	done := make(chan error, 1)
	select {
	case ns.jobs <- job{fn, done}:
		return <-done
	case <-ns.done:
		return os.ErrClosed
	}
}

// Run starts the process inside the namespace and waits for it.
func (ns *NS) Run(cmd *exec.Cmd) error {
	if err := ns.Start(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// File is the descriptor of the namespace, for setns by others. It belongs to NS.
func (ns *NS) File() *os.File { return ns.file }

// Netlink is the route netlink of the namespace, for what the methods here do not cover. It belongs to NS.
func (ns *NS) Netlink() *netlink.Handle { return ns.handle }

// Sysctl sets a sysctl of the namespace, such as net.ipv4.ip_forward. Interface names with dots are not supported.
func (ns *NS) Sysctl(name, value string) error {
	return ns.Do(func() error {
		if err := os.WriteFile(sysctlPath(name), []byte(value), 0); err != nil {
			return fmt.Errorf("cannot set sysctl %s: %w", name, err)
		}
		return nil
	})
}

// ReadSysctl reads a sysctl of the namespace.
func (ns *NS) ReadSysctl(name string) (string, error) {
	var value []byte
	err := ns.Do(func() (err error) {
		value, err = os.ReadFile(sysctlPath(name))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("cannot read sysctl %s: %w", name, err)
	}
	return strings.TrimSpace(string(value)), nil
}

// /proc/sys/net shows the namespace of the thread that opens it, so that no proc need be mounted for it.
func sysctlPath(name string) string {
	return filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
}
