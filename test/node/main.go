// Node shows, on a real Kubernetes node, what dnslet promises there: it takes the node's DNS without conntrack, and whatever happens
// to it the next lookup is answered by cluster DNS. It runs on the machine that holds the node's network namespace (any node, as
// root, from a kind-like cluster made of namespaces to the node itself), starts `dnslet agent` inside it, looks names up from a pod
// and from the node by UDP and TCP, and does to the agent what kills agents. test/node/run.sh finds the namespaces of a cluster
// and calls it; docs/testing.md says how.
//
// It prints one row for each promise with what was counted, and ends with exit code 1 if one was not kept.
//
// It does not build the cluster, and it needs cluster DNS to forward names outside the cluster to the address given by -world, where
// it serves the zone dnslet.example itself: that is how answers of cluster DNS and of dnslet are told apart.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	node, pod  string // network namespaces, as paths
	vip        netip.Addr
	endpoints  []netip.AddrPort
	world      netip.AddrPort
	dnslet     string
	lookups    int
	stream     time.Duration
	proxy      string // for the head of the table
	rulesetCmd string // a foreign hand: the program that flushes the ruleset
}

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	kept, err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
	if !kept {
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	var vip, endpoints, world string
	f := flag.NewFlagSet("node", flag.ContinueOnError)
	f.StringVar(&o.node, "node", "", "path of the node's network namespace")
	f.StringVar(&o.pod, "pod", "", "path of the network namespace of a pod on that node")
	f.StringVar(&vip, "vip", "10.96.0.10", "the cluster DNS ClusterIP")
	f.StringVar(&endpoints, "endpoints", "", "the cluster DNS endpoints, IP:PORT, with commas between")
	f.StringVar(&world, "world", "", "IP:PORT where cluster DNS forwards names outside the cluster; this program answers there")
	f.StringVar(&o.dnslet, "dnslet", "bin/dnslet", "the dnslet binary")
	f.IntVar(&o.lookups, "lookups", 10000, "lookups while conntrack is watched")
	f.DurationVar(&o.stream, "stream", 3*time.Minute, "how long one TCP connection must live")
	f.StringVar(&o.proxy, "proxy", "?", "kube-proxy's mode, for the heading")
	f.StringVar(&o.rulesetCmd, "flush", "nft", "the nft program that somebody else flushes the ruleset with")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	var err error
	if o.vip, err = netip.ParseAddr(vip); err != nil {
		return o, fmt.Errorf("-vip: %w", err)
	}
	if o.world, err = netip.ParseAddrPort(world); err != nil {
		return o, fmt.Errorf("-world: %w", err)
	}
	for text := range strings.SplitSeq(endpoints, ",") {
		e, err := netip.ParseAddrPort(text)
		if err != nil {
			return o, fmt.Errorf("-endpoints: %w", err)
		}
		o.endpoints = append(o.endpoints, e)
	}
	if o.node == "" || o.pod == "" {
		return o, errors.New("-node and -pod are required")
	}
	return o, nil
}
