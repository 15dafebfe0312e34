package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/dnslet/dnslet/wire"
)

// slack is what a loaded machine may add to a deadline that is promised.
const slack = 500 * time.Millisecond

// ask is Exchange with the time it took.
func ask(t testing.TB, g *Group, name string) ([]byte, Meta, time.Duration, error) {
	t.Helper()
	began := time.Now()
	answer, meta, err := g.Exchange(context.Background(), query(t, name), nil)
	return answer, meta, time.Since(began), err
}

// Red when: Exchange does not put the client's ID into the answer.
func TestAnswer(t *testing.T) {
	s := newServer(t, "127.0.0.1", nil)
	g := newGroup(t, udp(s), nil)
	meta := mustAnswer(t, g, "A.name.example.")
	if meta.Endpoint != udp(s)[0] || meta.RTT <= 0 || meta.LastResort || meta.Hedged {
		t.Errorf("meta %+v", meta)
	}
	until(t, "the socket is closed", func() bool { return g.Snapshot().Sockets == 0 })
	if n := g.Snapshot(); n.Asked != 1 || n.Exchanges != 1 || n.Failures != 0 {
		t.Errorf("counters %+v", n)
	}
}

func TestAnswerIPv6(t *testing.T) {
	s := newServer(t, "::1", nil)
	mustAnswer(t, newGroup(t, udp(s), nil), "name.example.")
}

// Red when: drawID always draws the same, or a socket is used twice.
func TestPortAndIDAreFresh(t *testing.T) {
	ids, ports := map[uint16]int{}, map[uint16]int{}
	s := newServer(t, "127.0.0.1", &script{udp: func(s *server, from netip.AddrPort, query []byte) {
		ids[wire.MsgID(query)]++
		ports[from.Port()]++
		s.send(from, good(query))
	}})
	g := newGroup(t, udp(s), nil)
	for range 200 {
		mustAnswer(t, g, "name.example.")
	}
	s.stop()
	if len(ids) < 190 || len(ports) < 180 {
		t.Errorf("200 questions had %d different IDs and %d different ports", len(ids), len(ports))
	}
}

// A forged or stray datagram is counted, and the question waits on for its answer.
//
// Red when: received does not compare the ID; or takes ErrMismatch for an answer.
func TestForgeries(t *testing.T) {
	edit := func(f func(m []byte) []byte) func([]byte) []byte {
		return func(query []byte) []byte { return f(good(query)) }
	}
	other := func(name string) func([]byte) []byte {
		return func(q []byte) []byte {
			m := query(t, name)
			wire.SetMsgID(m, wire.MsgID(q))
			return good(m)
		}
	}
	forgeries := map[string]func(query []byte) []byte{
		"wrong ID":        edit(func(m []byte) []byte { m[1]++; return m }),
		"QR clear":        edit(func(m []byte) []byte { m[2] &^= 0x80; return m }),
		"the query":       bytes.Clone,
		"opcode STATUS":   edit(func(m []byte) []byte { m[2] |= 2 << 3; return m }),
		"other name":      other("eman.example."),
		"longer name":     other("x.name.example."),
		"other type":      edit(func(m []byte) []byte { m[len(m)-16-3] = 28; return m }),
		"other class":     edit(func(m []byte) []byte { m[len(m)-16-1] = 3; return m }),
		"two questions":   edit(func(m []byte) []byte { m[5] = 2; return m }),
		"no question":     edit(func(m []byte) []byte { m[5] = 0; return m }),
		"header, NOERROR": edit(func(m []byte) []byte { m[5], m[7] = 0, 0; return m[:12] }),
		"short":           edit(func(m []byte) []byte { return m[:11] }),
		"empty":           edit(func(m []byte) []byte { return nil }),
		"cut question":    edit(func(m []byte) []byte { return m[:14] }),
		"garbage":         func([]byte) []byte { return bytes.Repeat([]byte{0xa5}, 600) },
		"oversized":       func([]byte) []byte { return make([]byte, 3000) },
	}
	for name, forge := range forgeries {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, "127.0.0.1", &script{udp: func(s *server, from netip.AddrPort, query []byte) {
				s.send(from, forge(query))
				s.send(from, forge(query))
				s.send(from, good(query))
			}})
			g := newGroup(t, udp(s), nil)
			mustAnswer(t, g, "name.example.")
			if n := g.Snapshot(); n.Mismatched != 2 || n.Asked != 1 || n.Malformed != 0 {
				t.Errorf("mismatched %d, asked %d, malformed %d; want 2, 1, 0", n.Mismatched, n.Asked, n.Malformed)
			}
		})
	}
}

// Red when: the socket is not connected.
func TestAnswerFromElsewhereIsNotSeen(t *testing.T) {
	elsewhere, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9)})
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	s := newServer(t, "127.0.0.1", &script{udp: func(s *server, from netip.AddrPort, query []byte) {
		lie := good(query)
		lie[len(lie)-1] = 66
		_, _ = elsewhere.WriteToUDPAddrPort(lie, from)
		s.send(from, good(query))
	}})
	g := newGroup(t, udp(s), nil)
	mustAnswer(t, g, "name.example.")
	if n := g.Snapshot(); n.Mismatched != 0 {
		t.Errorf("%d datagrams from elsewhere reached the socket", n.Mismatched)
	}
}

// Red when: names are compared with case; RFC 4343.
func TestCaseOfTheQuestionMayDiffer(t *testing.T) {
	s := newServer(t, "127.0.0.1", says(func(query []byte) []byte {
		m := good(query)
		copy(m[12:], bytes.ToLower(wire.Question(query)))
		return m
	}))
	if _, _, _, err := ask(t, newGroup(t, udp(s), nil), "NaMe.ExAmPlE."); err != nil {
		t.Error(err)
	}
}

// Red when: give returns nothing but errors, or a single SERVFAIL is returned while another endpoint could be asked.
func TestUselessAnswers(t *testing.T) {
	bad := func(rc wire.RCode) *script { return says(func(q []byte) []byte { return rcode(q, rc) }) }
	malformed := says(func(q []byte) []byte { m := good(q); return m[:len(m)-3] })
	bareHeader := says(func(q []byte) []byte { return []byte{q[0], q[1], 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0} })
	tests := []struct {
		name    string
		scripts []*script
		want    wire.RCode
		err     error
	}{
		{"SERVFAIL, then good", []*script{bad(wire.RCodeServFail), nil}, wire.RCodeNoError, nil},
		{"REFUSED, then good", []*script{bad(wire.RCodeRefused), nil}, wire.RCodeNoError, nil},
		{"NOTIMP, then good", []*script{bad(wire.RCodeNotImp), nil}, wire.RCodeNoError, nil},
		{"malformed, then good", []*script{malformed, nil}, wire.RCodeNoError, nil},
		{"bare FORMERR, then good", []*script{bareHeader, nil}, wire.RCodeNoError, nil},
		{"NXDOMAIN is an answer", []*script{bad(wire.RCodeNXDomain), silent}, wire.RCodeNXDomain, nil},
		{"SERVFAIL twice", []*script{bad(wire.RCodeServFail), bad(wire.RCodeServFail), silent}, wire.RCodeServFail, nil},
		{"SERVFAIL, then silence", []*script{bad(wire.RCodeServFail), silent}, wire.RCodeServFail, nil},
		{"SERVFAIL alone", []*script{bad(wire.RCodeServFail)}, wire.RCodeServFail, nil},
		{"malformed twice", []*script{malformed, malformed}, 0, ErrUnreachable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var servers []*server
			for _, sc := range tt.scripts {
				servers = append(servers, newServer(t, "127.0.0.1", sc))
			}
			g := newGroup(t, udp(servers...), nil)
			// The first endpoint of the list is to be asked first: make it the only near one.
			for i, e := range g.list.Load().all {
				e.ewma.Store(int64(time.Duration(1+10*i) * time.Millisecond))
			}
			answer, _, took, err := ask(t, g, "name.example.")
			if !errors.Is(err, tt.err) || err == nil && wire.RCode(answer[3]&0xf) != tt.want {
				t.Fatalf("answer %x, error %v; want %v, %v", answer, err, tt.want, tt.err)
			}
			if took > g.cfg.Budget {
				t.Errorf("took %v", took)
			}
		})
	}
}

// Red when: onUseless does nothing: half of all questions would take the detour.
func TestSickEndpointFallsBehind(t *testing.T) {
	sick := newServer(t, "127.0.0.1", says(func(q []byte) []byte { return rcode(q, wire.RCodeServFail) }))
	well := newServer(t, "127.0.0.2", nil)
	g := newGroup(t, udp(sick, well), nil)
	for range 50 {
		mustAnswer(t, g, "name.example.")
	}
	before := sick.asked.Load()
	for range 50 {
		mustAnswer(t, g, "name.example.")
	}
	if n := sick.asked.Load() - before; n > 10 {
		t.Errorf("an endpoint that only says SERVFAIL was asked %d of 50 questions", n)
	}
}

// Red when: a truncated answer is returned instead of asked again by TCP.
func TestTruncatedGoesToTCP(t *testing.T) {
	s := newServer(t, "127.0.0.1", says(truncated))
	g := newGroup(t, udp(s), nil)
	for range 3 {
		mustAnswer(t, g, "name.example.")
	}
	if n := g.Snapshot(); n.Truncated != 3 || n.TCPDials != 1 {
		t.Errorf("truncated %d, dials %d; want 3, 1", n.Truncated, n.TCPDials)
	}
}

// Red when: give forgets the fallback.
func TestTruncatedIsReturnedWithoutTCP(t *testing.T) {
	s := newServer(t, "127.0.0.1", says(truncated))
	_ = s.tcp.Close()
	g := newGroup(t, udp(s), nil)
	answer, _, _, err := ask(t, g, "name.example.")
	if err != nil || wire.MsgFlags(answer)&wire.FlagTC == 0 {
		t.Errorf("answer %x, error %v; want the truncated one", answer, err)
	}
}

// A policy that lets only UDP through is common. A stub resolver lives off the truncated answer (musl), or tries TCP itself:
// it is to have it before it asks again, also where the caller's deadline is a little before the budget's end.
//
// Red when: run waits on with a truncated answer at hand and nobody hopeful; or returns ctx.Err() at ctx's deadline.
func TestTruncatedIsReturnedWhenTCPIsSilent(t *testing.T) {
	udpOnly := &script{
		udp: func(s *server, from netip.AddrPort, query []byte) { s.send(from, truncated(query)) },
		tcp: func(_ *server, conn net.Conn) { _, _ = io.Copy(io.Discard, conn) },
	}
	for name, c := range map[string]struct{ deadline, within time.Duration }{
		"early":       {DefaultBudget, DefaultBudget - 300*time.Millisecond},
		"at deadline": {100 * time.Millisecond, DefaultBudget},
	} {
		g := newGroup(t, udp(newServer(t, "127.0.0.1", udpOnly), newServer(t, "127.0.0.2", udpOnly)), nil)
		ctx, cancel := context.WithTimeout(context.Background(), c.deadline)
		began := time.Now()
		answer, _, err := g.Exchange(ctx, query(t, "name.example."), nil)
		took := time.Since(began)
		cancel()
		if err != nil || wire.MsgFlags(answer)&wire.FlagTC == 0 || took > c.within {
			t.Errorf("%s: after %v answer %x, error %v; want the truncated one within %v", name, took, answer, err, c.within)
		}
	}
}

// Red when: the receive buffer is what EDNS allows: what a server sends beyond is still whole.
func TestLargeAnswer(t *testing.T) {
	big := func(q []byte) []byte {
		m := good(q)
		record := m[len(m)-16:]
		for range 3000 {
			m = append(m, record...)
		}
		m[6], m[7] = 3001>>8, 3001&0xff
		return m
	}
	s := newServer(t, "127.0.0.1", &script{
		udp:  func(s *server, from netip.AddrPort, query []byte) { s.send(from, big(query)) },
		tcp1: big,
	})
	for _, endpoints := range [][]Endpoint{udp(s), tcp(s)} {
		g := newGroup(t, endpoints, nil)
		q := query(t, "name.example.")
		for _, buf := range [][]byte{nil, make([]byte, 0, 65536)} {
			answer, _, err := g.Exchange(context.Background(), q, buf)
			if err != nil || !bytes.Equal(answer, big(q)) {
				t.Errorf("%v: %d octets, error %v", endpoints, len(answer), err)
			} else if cap(buf) > 0 && &answer[0] != &buf[:1][0] {
				t.Errorf("%v: the answer is not in the caller's buffer", endpoints)
			}
		}
	}
}

// Red when: wire.Question is trusted without a look at the flags.
func TestUnforwardable(t *testing.T) {
	g := newGroup(t, udp(newServer(t, "127.0.0.1", nil)), nil)
	q := query(t, "name.example.")
	edit := func(i int, v byte) []byte { m := bytes.Clone(q); m[i] = v; return m }
	for name, m := range map[string][]byte{
		"empty": nil, "short": q[:11], "cut": q[:20], "no question": edit(5, 0), "two questions": edit(5, 2),
		"a response": edit(2, 0x80), "opcode NOTIFY": edit(2, 4<<3), "compressed": edit(12, 0xc0),
	} {
		if _, _, err := g.Exchange(context.Background(), m, nil); !errors.Is(err, ErrQuery) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if n := g.Snapshot(); n.Asked != 0 {
		t.Errorf("%d were sent", n.Asked)
	}
}

// Red when: run does not look at ctx, or takes its end for its deadline.
func TestContextEndsExchange(t *testing.T) {
	s := newServer(t, "127.0.0.1", silent)
	g := newGroup(t, udp(s), nil)
	ctx, cancel := context.WithCancel(context.Background())
	s.play(&script{udp: func(*server, netip.AddrPort, []byte) { cancel() }})
	if _, _, err := g.Exchange(ctx, query(t, "name.example."), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// Red when: parse does not recover.
func TestPanicCostsOneAnswer(t *testing.T) {
	g := newGroup(t, nil, nil)
	q := query(t, "name.example.")
	if err := g.parse(nil, good(q), wire.Question(q)); !errors.Is(err, wire.ErrMalformed) || g.Snapshot().Panics != 1 {
		t.Errorf("error %v, %d panics", err, g.Snapshot().Panics)
	}
}
