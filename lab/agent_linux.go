package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// Agent is a dnslet agent on the node under test: a process of its own.
type Agent struct {
	c     *Cluster
	cmd   *exec.Cmd
	log   *tail
	ended chan struct{} // closed when the process has ended
	err   error         // how, once ended is closed
}

// readyWait bounds the wait for an agent to answer: it has to hear from an endpoint first, and a busy machine is slow.
const readyWait = 20 * time.Second

// StartAgent starts the agent by a command, to which its configuration is appended, and waits until it answers the pods'
// questions. It ends with the cluster at the latest.
func (c *Cluster) StartAgent(ctx context.Context, command []string) (*Agent, error) {
	a, err := c.launch(command)
	if err != nil {
		return nil, err
	}
	if err := a.waitReady(ctx); err != nil {
		return nil, errors.Join(err, a.Kill())
	}
	return a, nil
}

// launch starts the agent and waits for nothing.
func (c *Cluster) launch(command []string) (*Agent, error) {
	if len(command) == 0 {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("cannot find this program: %w", err)
		}
		command = []string{self, "agent"}
	}
	var endpoints []string
	for _, addr := range c.EndpointAddrs() {
		endpoints = append(endpoints, netip.AddrPortFrom(addr, 53).String())
	}
	for _, set := range []string{
		"upstream=" + strings.Join(endpoints, ","),
		"intercept.mode=on",
		"intercept.vips=" + VIP.String(),
	} {
		command = append(command[:len(command):len(command)], "--set", set)
	}
	a := &Agent{c: c, cmd: exec.Command(command[0], command[1:]...), log: &tail{}, ended: make(chan struct{})}
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	if err := c.Node.Start(a.cmd); err != nil {
		return nil, err
	}
	go func() {
		a.err = a.cmd.Wait()
		close(a.ended)
	}()
	return a, nil
}

// waitReady asks from a pod, by UDP and TCP, until it is the agent that answers.
func (a *Agent) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for _, network := range []string{"udp", "tcp"} {
		for {
			answer, err := a.c.Pods[0].Ask(network, "kubernetes.default.svc.cluster.local.", dns.TypeA, time.Second)
			if err == nil && answer.FromAgent {
				break
			}
			select {
			case <-a.ended:
				return fmt.Errorf("the agent ended: %w\n%s", a.err, a.log)
			case <-ctx.Done():
				return fmt.Errorf("the agent does not answer pods by %s: %w\n%s", network, ctx.Err(), a.log)
			case <-pause.C:
			}
		}
	}
	return nil
}

// Signal sends the agent's process a signal.
func (a *Agent) Signal(s syscall.Signal) error {
	if err := a.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("cannot send the agent %v: %w", s, err)
	}
	return nil
}

// Kill ends the agent by SIGKILL and waits until it is gone. Killing twice is harmless.
func (a *Agent) Kill() error {
	if err := a.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-a.ended
	return nil
}

// Stop ends the agent by SIGTERM and waits until it is gone; an error says how it ended instead.
func (a *Agent) Stop() error {
	if err := a.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-a.ended
	if a.err != nil {
		return fmt.Errorf("the agent did not end in order: %w\n%s", a.err, a.log)
	}
	return nil
}

// tail keeps the last of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	t.buf = t.buf[max(0, len(t.buf)-tailBytes):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}
