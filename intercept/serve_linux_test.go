package intercept_test

import (
	"testing"
)

// Pods and the node, UDP and TCP, IPv4 and IPv6, two VIPs of each: the agent answers, and cluster DNS before and after.
//
// Red when: newTable leaves out nodeChains, or the machine writes an IPv6 address without NFT_PAYLOAD_L4CSUM_PSEUDOHDR.
func TestServes(t *testing.T) {
	w := newWorld(t)
	each := func(who byte) {
		t.Helper()
		for _, vip := range vips {
			for _, network := range []string{"udp", "tcp"} {
				w.expect(w.pods[0], network, vip, who)
				w.expect(w.pods[1], network, vip, who)
				w.expect(w.node, network, vip, who)
			}
		}
	}
	each(cluster)
	a := w.agent(config(patient))
	each(agentIs)
	s := a.status(t)
	if !s.Installed || !s.Owned || len(s.Missing) > 0 || s.Reason != "" || s.Counters.Served == 0 {
		t.Errorf("status of an agent in service: %+v", s)
	}
	w.must(a.stop())
	each(cluster)
}
