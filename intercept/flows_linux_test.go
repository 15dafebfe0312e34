package intercept_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
)

// life returns how long the flow of a connection from a pod stays in a set; 0: it is not there.
func (w *world) life(set string, c net.Conn) time.Duration {
	w.t.Helper()
	from := netip.MustParseAddrPort(c.LocalAddr().String())
	key := binary.BigEndian.AppendUint16(from.Addr().AsSlice(), from.Port())
	var out time.Duration
	w.must(w.node.Do(func() error {
		nft, err := nftables.New()
		if err != nil {
			return err
		}
		elems, err := nft.GetSetElements(&nftables.Set{Name: set, Table: &nftables.Table{Name: "dnslet", Family: nftables.TableFamilyIPv4}})
		for _, e := range elems {
			if bytes.HasPrefix(e.Key, key) {
				out = e.Expires
			}
		}
		return err
	}))
	return out
}

// A connection lives in @flows, renewed by its packets from the short life of a handshake on, and moves to @closing at its end.
//
// Red when: stream looks a flow up and does not renew it, or does not take it out at a FIN.
func TestFlowsLiveWithTheirConnections(t *testing.T) {
	w := newWorld(t)
	w.agent(config(patient))
	c, err := dial(w.pods[0], "tcp", vip4, netip.Addr{}, 0)
	w.must(err)
	defer c.Close()
	if who, err := exchange(c, 1, time.Second); who != agentIs {
		t.Fatalf("answered by %d, %v", who, err)
	}
	if life := w.life("flows", c); life < 100*time.Second {
		t.Errorf("an established connection lives %s in @flows", life)
	}
	w.must(c.(*net.TCPConn).CloseWrite())
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || err.Error() != "EOF" {
		t.Errorf("the connection ended with %v", err)
	}
	if flow, closing := w.life("flows", c), w.life("closing", c); flow != 0 || closing == 0 || closing > 10*time.Second {
		t.Errorf("a closed connection lives %s in @flows and %s in @closing", flow, closing)
	}
}
