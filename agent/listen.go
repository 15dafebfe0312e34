package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/dnslet/dnslet/admin"
	"github.com/dnslet/dnslet/cache"
	"github.com/dnslet/dnslet/config"
	"github.com/dnslet/dnslet/resolver"
	"github.com/dnslet/dnslet/wire"
)

// PortTakenError says that somebody else has an address that the agent was told to listen on.
type PortTakenError struct {
	Addr  netip.AddrPort
	Key   string // of the configuration, under which another one can be given; empty: it is one of interception's
	Owner string // who has it, in words; empty: cannot be told
	Err   error
}

func (e *PortTakenError) Error() string {
	by := ""
	if e.Owner != "" {
		by = " by " + e.Owner
	}
	return fmt.Sprintf("cannot listen on %v: the port is taken%s", e.Addr, by)
}

func (e *PortTakenError) Unwrap() error { return e.Err }

// taken makes a PortTakenError of err if it is one: of the first of addrs that somebody has, by one of protocols in the
// order in which they were tried.
func taken(err error, key string, protocols []string, addrs ...netip.AddrPort) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	for _, a := range addrs {
		if owner := portOwner(a, protocols...); owner != "" {
			return &PortTakenError{Addr: a, Key: key, Owner: owner, Err: err}
		}
	}
	return &PortTakenError{Addr: addrs[0], Key: key, Err: err}
}

func (a *Agent) listenHTTP(cfg config.Config) error {
	s, err := admin.New(admin.Config{Listen: cfg.Admin.Listen, Source: a, Logger: a.log})
	if err != nil {
		return err
	}
	if err := s.Listen(); err != nil {
		return taken(err, "admin.listen", []string{"tcp"}, cfg.Admin.Listen)
	}
	a.http = s
	return nil
}

func newCache(c config.Cache) (*cache.Cache, error) {
	cc := cache.Default()
	cc.Bytes, cc.MinTTL, cc.MaxTTL, cc.MaxNegativeTTL = c.Size, c.MinTTL, c.MaxTTL, c.MaxNegativeTTL
	cc.StaleFor, cc.FailureTTL, cc.FailureMaxTTL = c.StaleFor, c.FailureTTL, max(cc.FailureMaxTTL, c.FailureTTL)
	if !c.Prefetch {
		cc.PrefetchHits = 0
	}
	return cache.New(cc)
}

// limitsOf turns the configuration's limits into the resolver's.
func limitsOf(l config.Limits) resolver.Limits {
	return resolver.Limits{InFlight: l.InFlight, PerSource: l.PerSource, TCPConns: l.TCPConnections, TCPPerSource: l.TCPPerSource, TCPIdle: l.TCPIdle}
}

// listen makes the resolver and binds every address: those of the configuration and those of the interception. With
// mode auto an interception whose addresses cannot be bound is given up, and the rest is served: a cluster DNS pod in the
// node's own network, say, that listens on port 53 of every address.
func (a *Agent) listen(cfg config.Config, zones *resolver.Zones) error {
	for {
		s, err := resolver.New(resolver.Config{
			Cache: a.cache, Zones: zones, Limits: fit(limitsOf(cfg.Limits), a.limits.files), Readers: resolver.DefaultReaders(), Mark: a.take.mark(), Logger: a.log,
		})
		if err != nil {
			return err
		}
		addrs := append(a.plain(cfg), a.take.listeners()...)
		err = s.Listen(addrs)
		if err == nil {
			a.server = s
			return nil
		}
		s.Drain(context.Background())
		err = taken(err, "listen", []string{"udp", "tcp"}, addrs...)
		var busy *PortTakenError
		ours := errors.As(err, &busy) && a.take.owns(busy.Addr.Addr())
		if ours {
			busy.Key = ""
		}
		if !ours && !errors.Is(err, fs.ErrPermission) || a.take.get() == nil {
			return err
		}
		if err := a.take.without(err); err != nil {
			return err
		}
	}
}

// plain are the addresses of the configuration. Where only intercepted questions were to be answered and none can be,
// the built-in default is served, so that there is something to ask.
func (a *Agent) plain(cfg config.Config) []netip.AddrPort {
	if len(cfg.Listen) == 0 && len(a.take.listeners()) == 0 {
		return config.Default().Listen
	}
	return append([]netip.AddrPort(nil), cfg.Listen...)
}

// probeTime is how long our own sockets may take to answer a question that needs nobody else.
const probeTime = time.Second

// selfProbe asks every address by UDP and TCP, before anybody is sent there.
func (a *Agent) selfProbe() error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*probeTime)
	defer cancel()
	for _, addr := range a.server.Addrs() {
		for _, network := range []string{"udp", "tcp"} {
			if err := probe(ctx, network, a.proberFor(addr.Addr()), addr); err != nil {
				return fmt.Errorf("cannot get an answer from myself: %w", err)
			}
		}
	}
	return nil
}

// proberFor is the address from which an address of ours can be asked: our table gives answers to anybody else the
// virtual IP as their source. The zero value: any.
func (a *Agent) proberFor(addr netip.Addr) netip.Addr {
	if a.take.get() == nil || !a.take.owns(addr) {
		return netip.Addr{}
	}
	for _, p := range a.take.plan.Probers() {
		if p.Is4() == addr.Is4() {
			return p
		}
	}
	return netip.Addr{}
}

// probe asks resolver.ProbeName at addr and returns nil if the answer is the one that only our own resolver gives.
func probe(ctx context.Context, network string, from netip.Addr, addr netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	d := net.Dialer{Control: freebind}
	if from.IsValid() && network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	} else if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	conn, err := d.DialContext(ctx, network, addr.String())
	if err != nil {
		return fmt.Errorf("cannot ask %v by %s: %w", addr, network, err)
	}
	defer conn.Close()
	if t, ok := ctx.Deadline(); ok {
		conn.SetDeadline(t)
	}
	id := uint16(rand.Uint32())
	query, err := probeQuery(id)
	if err != nil {
		return err
	}
	var reply []byte
	if network == "tcp" {
		reply, err = askTCP(conn, query)
	} else {
		reply, err = askUDP(conn, query)
	}
	if err != nil {
		return fmt.Errorf("no answer from %v by %s: %w", addr, network, err)
	}
	if len(reply) < wire.HeaderLen || binary.BigEndian.Uint16(reply) != id || reply[2]&0x80 == 0 || reply[3]&0x0f != 0 || binary.BigEndian.Uint16(reply[6:]) != 1 {
		return fmt.Errorf("%v answers by %s, but it is not this agent", addr, network)
	}
	return nil
}

func probeQuery(id uint16) ([]byte, error) {
	name, err := wire.AppendName(nil, resolver.ProbeName)
	if err != nil {
		return nil, err
	}
	q := wire.AppendQuery(nil, wire.FlagRD, name, wire.TypeA, wire.ClassIN, false)
	wire.SetMsgID(q, id)
	return q, nil
}

func askUDP(conn net.Conn, query []byte) ([]byte, error) {
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, wire.MaxUDP)
	n, err := conn.Read(buf)
	return buf[:n], err
}

func askTCP(conn net.Conn, query []byte) ([]byte, error) {
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(conn, buf)
	return buf, err
}
