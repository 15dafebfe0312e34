package lab

import "net/netip"

// The addresses of every cluster. Pods and endpoints are addressed as most CNIs do it: a /32 on a point-to-point link, a
// link-local gateway, permanent neighbours.
var (
	VIP         = netip.MustParseAddr("172.20.0.10") // the cluster DNS Service
	ServiceCIDR = netip.MustParsePrefix("172.20.0.0/16")
	ClusterCIDR = netip.MustParsePrefix("10.244.0.0/16")
	PodCIDR     = netip.MustParsePrefix("10.244.1.0/24") // the pods of the node under test
	NodeAddr    = netip.MustParseAddr("10.0.0.1")

	gateway   = netip.MustParseAddr("169.254.1.1")
	fabric    = netip.MustParseAddr("10.0.0.254")
	firstPod  = netip.MustParseAddr("10.244.1.11")
	firstEndp = netip.MustParseAddr("10.244.2.1")
	anywhere  = netip.MustParsePrefix("0.0.0.0/0")
)
