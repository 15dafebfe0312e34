// Package lab is a small Kubernetes cluster on one machine, made of network namespaces, in which the DNS incidents of real
// clusters are made to happen and seen to be gone.
//
// A Cluster has one node that forwards, pods with the resolv.conf that the kubelet gives them, kube-proxy's rules for the
// cluster DNS address, and the cluster DNS servers on other nodes behind a fabric. Servers are scripted (Server), clients do
// what glibc does (Pod.Lookup), or are real programs (Pod.Start). Hold keeps the packets of a pair together as a policy proxy
// does, which makes the conntrack race happen every time instead of under load.
//
// Everything lives in anonymous namespaces and in child processes that end with this one: nothing is on disk, nothing has a
// name, and nothing remains, however the program ends. An ordinary user may run all of it where the kernel grants user
// namespaces.
//
// It does not emulate old kernels, does not run CoreDNS or kube-proxy, and judges nothing but dnslet's own promises.
package lab

import (
	"errors"
	"io"
	"strings"
)

// Options are what Demo and Run are told.
type Options struct {
	// Agent is the command that runs the agent; it is given its configuration as further `--set` arguments. Empty: this
	// program with the argument "agent".
	Agent []string
	// Output is "table" or "json".
	Output string
	// SVG is the file that Demo draws the latency distributions into; empty: none.
	SVG string
	// Out receives the answer, Progress the lines that say what is going on. Both are required.
	Out, Progress io.Writer
}

// ErrMissed is returned, after the report has been written, when dnslet did not keep what it promises. The report says what.
var ErrMissed = errors.New("dnslet missed its bar")

// Scenario is something that can happen to a cluster's DNS.
type Scenario struct {
	Name  string `json:"name"`
	About string `json:"about"`
}

// List returns the scenarios that Run knows, in the order in which Demo plays them.
func List() []Scenario {
	return []Scenario{
		{"quiet", "lookups on a healthy cluster, through kube-proxy and with dnslet"},
		{"race-slow", "today's conntrack race: pairs of packets held together, external names answered after 1.5 s"},
		{"stop", "the agent is stopped (SIGSTOP) for 6 s under load, then goes on (SIGCONT)"},
		{"kill9", "the agent is killed (-9) under load and started again 3 s later"},
	}
}

// known returns the scenario names of List.
func known() []string {
	var names []string
	for _, s := range List() {
		names = append(names, s.Name)
	}
	return names
}

func unknown(name string) error {
	return errors.New("no scenario is named " + name + "; there are " + strings.Join(known(), ", "))
}
