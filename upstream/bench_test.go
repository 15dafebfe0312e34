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

// BenchmarkExchangeUDPParallel has 64 questions under way at any time, as a busy node has.
func BenchmarkExchangeUDPParallel(b *testing.B) {
	g := newGroup(b, udp(newServer(b, "127.0.0.1", nil)), nil)
	q := query(b, "name.example.")
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, 0, 4096)
		for pb.Next() {
			if _, _, err := g.Exchange(context.Background(), q, buf); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkDialUDPParallel(b *testing.B) {
	s := newServer(b, "127.0.0.1", nil)
	q := query(b, "name.example.")
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, 4096)
		for pb.Next() {
			c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(s.addr))
			if err != nil {
				b.Error(err)
				continue
			}
			_, _ = c.Write(q)
			_, _ = c.Read(buf)
			_ = c.Close()
		}
	})
}
