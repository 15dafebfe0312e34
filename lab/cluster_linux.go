package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/dnslet/dnslet/lab/netns"
)

// Uplink is the node's interface towards the other nodes.
const Uplink = "eth0"

// Config is the size of a cluster. It is for New.
type Config struct {
	Pods      int // on the node under test
	Endpoints int // cluster DNS servers, each on a node of its own
}

// Cluster is a running cluster. Its fields are set by New and not changed.
type Cluster struct {
	Node      *netns.NS
	Pods      []*Pod
	Endpoints []*Server

	fabric *netns.NS
	all    []*netns.NS
}

// New makes a cluster of one node with pods, and cluster DNS servers on other nodes, all of them running, with kube-proxy's
// rules for cluster DNS in force. The caller closes it.
func New(cfg Config) (*Cluster, error) {
	c := &Cluster{}
	if err := c.build(cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot build the cluster: %w", err), c.Close())
	}
	return c, nil
}

// Close ends every process and server of the cluster and gives its namespaces up.
func (c *Cluster) Close() error {
	var errs []error
	for _, s := range c.Endpoints {
		errs = append(errs, s.Close())
	}
	for _, ns := range c.all {
		errs = append(errs, ns.Close())
	}
	return errors.Join(errs...)
}

func (c *Cluster) build(cfg Config) error {
	var err error
	if c.Node, err = c.namespace(); err != nil {
		return err
	}
	if c.fabric, err = c.namespace(); err != nil {
		return err
	}
	for _, router := range []*netns.NS{c.Node, c.fabric} {
		for _, s := range [][2]string{
			{"net.ipv4.ip_forward", "1"},
			{"net.ipv4.conf.all.rp_filter", "0"},
			{"net.ipv4.conf.default.rp_filter", "0"},
		} {
			if err := router.Sysctl(s[0], s[1]); err != nil {
				return err
			}
		}
	}
	if err := c.buildUplink(); err != nil {
		return err
	}
	pod := firstPod
	for i := range cfg.Pods {
		p, err := c.addPod(fmt.Sprintf("pod%d", i+1), pod)
		if err != nil {
			return err
		}
		c.Pods = append(c.Pods, p)
		pod = pod.Next()
	}
	endpoint := firstEndp
	for i := range cfg.Endpoints {
		ns, err := c.addHost(c.fabric, fmt.Sprintf("node%d", i+2), endpoint)
		if err != nil {
			return err
		}
		s, err := NewServer(ns, endpoint, ClusterZones())
		if err != nil {
			return err
		}
		c.Endpoints = append(c.Endpoints, s)
		endpoint = endpoint.Next()
	}
	return c.SetEndpoints(c.EndpointAddrs())
}

// EndpointAddrs returns the addresses of the cluster DNS servers.
func (c *Cluster) EndpointAddrs() []netip.Addr {
	var addrs []netip.Addr
	for _, s := range c.Endpoints {
		addrs = append(addrs, s.Addr)
	}
	return addrs
}

func (c *Cluster) namespace() (*netns.NS, error) {
	ns, err := netns.New()
	if err != nil {
		return nil, err
	}
	c.all = append(c.all, ns)
	return ns, nil
}

// buildUplink connects the node and the fabric by a link with an address on both sides: the node's default route.
func (c *Cluster) buildUplink() error {
	if err := netns.Veth(c.Node, Uplink, c.fabric, "node1"); err != nil {
		return err
	}
	mac, err := c.fabric.MAC("node1")
	if err != nil {
		return err
	}
	nodeMAC, err := c.Node.MAC(Uplink)
	if err != nil {
		return err
	}
	return errors.Join(
		c.Node.AddAddr(Uplink, netip.PrefixFrom(NodeAddr, 24)),
		c.Node.AddNeigh(Uplink, fabric, mac),
		c.Node.AddRoute(netns.Route{Dst: anywhere, Via: fabric, Link: Uplink}),
		c.fabric.AddAddr("node1", netip.PrefixFrom(fabric, 24)),
		c.fabric.AddNeigh("node1", NodeAddr, nodeMAC),
		c.fabric.AddRoute(netns.Route{Dst: PodCIDR, Via: NodeAddr, Link: "node1"}),
	)
}

// addHost connects a new namespace with one address to a router, by the interface eth0 here and port there.
func (c *Cluster) addHost(router *netns.NS, port string, addr netip.Addr) (*netns.NS, error) {
	ns, err := c.namespace()
	if err != nil {
		return nil, err
	}
	if err := netns.Veth(ns, "eth0", router, port); err != nil {
		return nil, err
	}
	inner, err := ns.MAC("eth0")
	if err != nil {
		return nil, err
	}
	outer, err := router.MAC(port)
	if err != nil {
		return nil, err
	}
	host := netip.PrefixFrom(addr, addr.BitLen())
	return ns, errors.Join(
		ns.AddAddr("eth0", host),
		ns.AddNeigh("eth0", gateway, outer),
		ns.AddRoute(netns.Route{Dst: anywhere, Via: gateway, Link: "eth0", OnLink: true}),
		router.AddNeigh(port, addr, inner),
		router.AddRoute(netns.Route{Dst: host, Link: port}),
	)
}
