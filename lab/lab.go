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
	"fmt"
	"io"
	"slices"
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

// Scenario is something that can happen to a cluster's DNS.
type Scenario struct {
	Name  string `json:"name"`
	About string `json:"about"`
	// Demo says that Demo plays it; the others take minutes.
	Demo bool `json:"demo"`
}

// List returns the scenarios that Run knows, in the order in which they are played.
func List() []Scenario {
	return []Scenario{
		{"quiet", "lookups on a healthy cluster, through kube-proxy and with dnslet", true},
		{"race-slow", "today's conntrack race: pairs of packets held together, external names answered after 1.5 s", true},
		{"stop", "the agent is stopped (SIGSTOP) for 6 s under load, then goes on (SIGCONT)", true},
		{"kill9", "the agent is killed (-9) under load and started again 3 s later", true},
		{"blackhole-one", "one of three cluster DNS servers goes silent and comes back, three times; 2 minutes", false},
		{"blackhole-all", "every cluster DNS server goes silent under 20,000 questions/s until memory has settled; 1 to 2 minutes", false},
	}
}

// checkNames returns an error if List does not have a name.
func checkNames(names []string) error {
	var known []string
	for _, s := range List() {
		known = append(known, s.Name)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return fmt.Errorf("no scenario is named %q; there are %s", name, strings.Join(known, ", "))
		}
	}
	return nil
}
