package upstream

import (
	"context"
	"net"
	"testing"
)

func benchmarkExchange(b *testing.B, endpoints []Endpoint) {
	g := newGroup(b, endpoints, nil)
	q, buf := query(b, "name.example."), make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := g.Exchange(context.Background(), q, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// The cost of a miss, the server's included.
func BenchmarkExchangeUDP(b *testing.B) { benchmarkExchange(b, udp(newServer(b, "127.0.0.1", nil))) }

func BenchmarkExchangeTCP(b *testing.B) { benchmarkExchange(b, tcp(newServer(b, "127.0.0.1", nil))) }

// BenchmarkDialUDP is the same question by package net: what the own sockets are to beat.
func BenchmarkDialUDP(b *testing.B) {
	s := newServer(b, "127.0.0.1", nil)
	q, buf := query(b, "name.example."), make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(s.addr))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Write(q); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
	}
}
