package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dnslet/dnslet/api"
)

// adminAddr is where the agent's local API listens unless it is told otherwise.
const adminAddr = "127.0.0.1:9553"

// Status asks the agent what it says of itself.
func (a *Agent) Status(ctx context.Context) (*api.Status, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (conn net.Conn, err error) {
			err = a.c.Node.Do(func() error {
				conn, err = net.DialTimeout("tcp", adminAddr, time.Second)
				return err
			})
			return conn, err
		}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+adminAddr+api.PathStatus, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot ask the agent for its status: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot ask the agent for its status: %w", err)
	}
	defer resp.Body.Close()
	var s api.Status
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return nil, fmt.Errorf("cannot read the agent's status: %w", err)
	}
	return &s, nil
}

// Memory returns what is resident of the agent's memory, and the most that ever was, in bytes, as the kernel counts it.
func (a *Agent) Memory() (resident, peak int64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.cmd.Process.Pid))
	if err != nil {
		return 0, 0, fmt.Errorf("cannot read the agent's memory: %w", err)
	}
	for name, value := range map[string]*int64{"VmRSS:": &resident, "VmHWM:": &peak} {
		_, rest, ok := strings.Cut(string(status), name)
		if !ok {
			return 0, 0, fmt.Errorf("cannot read the agent's memory: no %s", name)
		}
		kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("cannot read the agent's memory: %w", err)
		}
		*value = kib << 10
	}
	return resident, peak, nil
}

// Files returns how many descriptors the agent has open.
func (a *Agent) Files() (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", a.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("cannot count the agent's descriptors: %w", err)
	}
	return len(entries), nil
}

// CPU returns how much CPU time the agent has used.
func (a *Agent) CPU() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("cannot read the agent's CPU time: %w", err)
	}
	// The name, in parentheses, may hold anything; utime and stime are the 12th and 13th field behind it (proc(5)).
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const utime, stime, perSecond = 11, 12, 100 // USER_HZ is 100 on every architecture Go runs on
	if len(fields) <= stime {
		return 0, fmt.Errorf("cannot read the agent's CPU time: %d fields", len(fields))
	}
	var ticks int64
	for _, f := range []string{fields[utime], fields[stime]} {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("cannot read the agent's CPU time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / perSecond, nil
}
