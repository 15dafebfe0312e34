package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// place is a network namespace that somebody else made.
type place struct {
	name string
	file *os.File
}

func open(name, path string) (*place, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the network namespace of the %s: %w", name, err)
	}
	return &place{name: name, file: f}, nil
}

// do runs fn on a thread inside the namespace; the thread ends with it. Sockets that fn makes stay inside.
func (p *place) do(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is thrown away
		if err := unix.Setns(int(p.file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("cannot enter the network namespace of the %s: %w", p.name, err)
			return
		}
		done <- fn()
	}()
	return <-done
}

// start starts a process inside. It must be waited for by a thread that lives, so it carries no parent-death signal: the caller
// ends it.
func (p *place) start(cmd *exec.Cmd) error { return p.do(cmd.Start) }

// sockets hands out sockets made inside, by one thread that stays there: a thread for each lookup would be the dearest part of it.
type sockets struct {
	asks chan func()
}

func (p *place) sockets() (*sockets, error) {
	s := &sockets{asks: make(chan func())}
	ready := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(int(p.file.Fd()), unix.CLONE_NEWNET)
		ready <- err
		if err != nil {
			return
		}
		for ask := range s.asks {
			ask()
		}
	}()
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("cannot enter the network namespace of the %s: %w", p.name, err)
	}
	return s, nil
}

func (s *sockets) udp() (conn *net.UDPConn, err error) {
	done := make(chan struct{})
	s.asks <- func() {
		conn, err = net.ListenUDP("udp4", nil)
		close(done)
	}
	<-done
	return conn, err
}

// tcp starts a connection; the handshake is waited for by the caller's own goroutine, not by the thread.
func (s *sockets) tcp() (fd int, err error) {
	done := make(chan struct{})
	s.asks <- func() {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		close(done)
	}
	<-done
	return fd, err
}
