package config

import (
	"fmt"
	"net/netip"

	"github.com/dnslet/dnslet/node"
)

// Resolve returns u with the nameservers of its ResolvConf, if it has one, as its endpoints. No nameserver at all is an
// error: the C library's way out, to ask this machine, would be a loop for us.
func (u Upstream) Resolve() (Upstream, error) {
	if u.ResolvConf == "" {
		return u, nil
	}
	rc, err := node.ReadResolvConf(u.ResolvConf)
	if err != nil {
		return u, err
	}
	u.Endpoints = nil
	for _, a := range rc.Nameservers {
		u.Endpoints = append(u.Endpoints, netip.AddrPortFrom(a, DNSPort))
	}
	if len(u.Endpoints) == 0 {
		return u, fmt.Errorf("cannot use %s: it names no nameserver", u.ResolvConf)
	}
	return u, nil
}
