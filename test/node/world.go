package main

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/miekg/dns"
)

// The zone that tells who answered: dnslet has whoami as a static host, cluster DNS hears of it from the world.
const (
	zone          = "dnslet.example."
	whoami        = "whoami.dnslet.example."
	whoamiDnslet  = "192.0.2.1"
	whoamiCluster = "192.0.2.2"
	elsewhere     = "192.0.2.3" // every other name of the zone: questions never asked before, misses for everybody
)

// serveWorld answers for the zone, as the resolver that cluster DNS forwards to.
func serveWorld(at netip.AddrPort) (stop func(), err error) {
	conn, err := net.ListenPacket("udp", at.String())
	if err != nil {
		return nil, fmt.Errorf("cannot serve the zone %s: %w", zone, err)
	}
	mux := dns.NewServeMux()
	mux.HandleFunc(zone, func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		address := elsewhere
		if dns.CanonicalName(r.Question[0].Name) == whoami {
			address = whoamiCluster
		}
		if r.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 30}, A: net.ParseIP(address)}}
		}
		w.WriteMsg(m)
	})
	listener, err := net.Listen("tcp", at.String()) // CoreDNS forwards by the transport that it was asked by
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot serve the zone %s: %w", zone, err)
	}
	servers := []*dns.Server{{PacketConn: conn, Handler: mux}, {Listener: listener, Handler: mux}}
	for _, server := range servers {
		go server.ActivateAndServe()
	}
	return func() {
		for _, server := range servers {
			server.Shutdown()
		}
	}, nil
}
