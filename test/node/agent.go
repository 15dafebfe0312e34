package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// agent is one run of `dnslet agent` inside the node.
type agent struct {
	node *place
	cmd  *exec.Cmd
	log  bytes.Buffer
	done chan struct{}
	err  error
}

// writeConfig writes the configuration that makes dnslet the node's DNS for the VIP.
func writeConfig(dir string, o options) (string, error) {
	var endpoints []string
	for _, e := range o.endpoints {
		endpoints = append(endpoints, fmt.Sprintf("%q", e))
	}
	text := fmt.Sprintf(`intercept:
  mode: "on"
  vips: [%q]
upstreams:
  default:
    endpoints: [%s]
    lastResort: "%s:53"
zones:
  - zone: %s
    hosts:
      - {name: %s, addresses: [%s], ttl: 5s}
admin:
  listen: %s
`, o.vip, strings.Join(endpoints, ", "), o.vip, zone, whoami, whoamiDnslet, admin)
	path := filepath.Join(dir, "dnslet.yaml")
	return path, os.WriteFile(path, []byte(text), 0o644)
}

const admin = "127.0.0.1:9553"

// startAgent starts the agent and waits until it says that it is ready.
func startAgent(ctx context.Context, node *place, binary, config string) (*agent, error) {
	a := &agent{node: node, done: make(chan struct{})}
	a.cmd = exec.Command(binary, "agent", "--config", config)
	a.cmd.Stdout, a.cmd.Stderr = &a.log, &a.log
	if err := node.start(a.cmd); err != nil {
		return nil, err
	}
	go func() {
		a.err = a.cmd.Wait()
		close(a.done)
	}()
	deadline := time.Now().Add(15 * time.Second)
	for {
		if a.ready() {
			return a, nil
		}
		select {
		case <-a.done:
			return nil, fmt.Errorf("the agent ended: %w\n%s", a.err, a.log.String())
		case <-ctx.Done():
			a.kill()
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			a.kill()
			return nil, fmt.Errorf("the agent was not ready within 15 s\n%s", a.log.String())
		}
	}
}

// get asks the agent's HTTP interface, from inside the node.
func (a *agent) get(path string) (status int, body string, err error) {
	err = a.node.do(func() error {
		// A client of its own, made and used up on this thread: a kept connection or a dial on another goroutine
		// would be in another namespace.
		conn, err := dialHere(admin)
		if err != nil {
			return err
		}
		transport := &http.Transport{DialContext: conn.dial, DisableKeepAlives: true}
		client := &http.Client{Transport: transport, Timeout: 2 * time.Second}
		response, err := client.Get("http://" + admin + path)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		status, body = response.StatusCode, string(text)
		return err
	})
	return status, body, err
}

func (a *agent) ready() bool {
	status, _, err := a.get("/readyz")
	return err == nil && status == http.StatusOK
}

func (a *agent) signal(s syscall.Signal) error { return a.cmd.Process.Signal(s) }

// wait waits for the end of the agent and returns its exit code.
func (a *agent) wait(limit time.Duration) (int, error) {
	select {
	case <-a.done:
	case <-time.After(limit):
		return 0, errors.New("the agent did not end in time")
	}
	return a.cmd.ProcessState.ExitCode(), nil
}

func (a *agent) kill() {
	a.cmd.Process.Kill()
	<-a.done
}
