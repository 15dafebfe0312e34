package intercept

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// A rule is a list of terms, read from left to right: the first one that does not hold ends the rule. Terms are data, so that
// one list is both printed (String, here) and sent to the kernel (encode_linux.go).
type term interface {
	text(f *family) string
}

// field is a part of a packet that terms look at.
type field uint8

const (
	saddr field = iota
	daddr
	sport
	dport
	l4proto
)

func (x field) text(f *family) string {
	switch x {
	case saddr:
		return f.name + " saddr"
	case daddr:
		return f.name + " daddr"
	case sport:
		return "th sport"
	case dport:
		return "th dport"
	}
	return "meta l4proto"
}

// key is a concatenation of fields, the key of a set.
type key []field

func (k key) text(f *family) string {
	parts := make([]string, len(k))
	for i, x := range k {
		parts[i] = x.text(f)
	}
	return strings.Join(parts, " . ")
}

// The conditions.
type (
	inSet struct { // the fields are an element of the set
		key key
		set string
	}
	notInSet struct {
		key key
		set string
	}
	inPrefix struct { // the address lies in the prefix
		field  field
		prefix netip.Prefix
		not    bool
	}
	isProto   struct{ proto Transport } // the protocol above IP
	isMark    struct{ mark uint32 }     // the packet's mark: of the socket that sent it, on its way out
	fromLink  struct{ name string }     // the interface that the packet came in by
	notFrom   struct{ name string }
	fromLinks struct{ set string } // the interface is an element of the set
	flagsAre  struct{ mask, value tcpFlags }
	flagsAny  struct{ mask tcpFlags } // at least one of the flags is set
	isLocal   struct{}                // the destination is local to this node
	socketIs  struct{ mark uint32 }   // a socket with that mark will receive the packet
	overLimit struct{ rate uint32 }   // of the source address per second, in the set rate
)

// The actions.
type (
	translate struct { // replaces the address by what the map has for it; does not hold when it has nothing
		field field
		by    string
	}
	update struct { // adds the key to the set, or renews its life; zero timeout: that of the set
		set     string
		key     key
		timeout time.Duration
	}
	remove struct { // takes the key out of the set, if it is there
		set string
		key key
	}
	count   struct{ name string } // a named counter
	untrack struct{}              // no conntrack for this packet
	verdict struct {              // accept, drop, return, jump, goto
		kind  string
		chain string
	}
)

type tcpFlags uint8

const (
	fin tcpFlags = 1 << iota
	syn
	rst
	psh
	ack
)

func (x tcpFlags) String() string {
	if x == 0 {
		return "0"
	}
	var names []string
	for i, name := range []string{"fin", "syn", "rst", "psh", "ack"} {
		if x&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "|")
}

func (t inSet) text(f *family) string    { return t.key.text(f) + " @" + t.set }
func (t notInSet) text(f *family) string { return t.key.text(f) + " != @" + t.set }

func (t inPrefix) text(f *family) string {
	op := " "
	if t.not {
		op = " != "
	}
	return t.field.text(f) + op + prefixText(t.prefix)
}

func (t isProto) text(*family) string   { return "meta l4proto " + t.proto.String() }
func (t isMark) text(*family) string    { return fmt.Sprintf("meta mark %#x", t.mark) }
func (t fromLink) text(*family) string  { return fmt.Sprintf("iifname %q", t.name) }
func (t notFrom) text(*family) string   { return fmt.Sprintf("iifname != %q", t.name) }
func (t fromLinks) text(*family) string { return "iifname @" + t.set }
func (t flagsAre) text(*family) string  { return fmt.Sprintf("tcp flags & (%s) == %s", t.mask, t.value) }
func (t flagsAny) text(*family) string  { return fmt.Sprintf("tcp flags & (%s) != 0", t.mask) }
func (t isLocal) text(*family) string   { return "fib daddr type local" }
func (t socketIs) text(*family) string  { return fmt.Sprintf("socket mark %#x", t.mark) }

func (t overLimit) text(f *family) string {
	return fmt.Sprintf("update @rate { %s limit rate over %d/second burst %d packets }", saddr.text(f), t.rate, t.burst())
}

// burst is what a source may ask at once: a quarter of a second's worth.
func (t overLimit) burst() uint32 { return max(t.rate/4, 1) }

func (t translate) text(f *family) string {
	return fmt.Sprintf("%s set %s map @%s", t.field.text(f), t.field.text(f), t.by)
}

func (t update) text(f *family) string {
	if t.timeout != 0 {
		return fmt.Sprintf("update @%s { %s timeout %s }", t.set, t.key.text(f), t.timeout)
	}
	return fmt.Sprintf("update @%s { %s }", t.set, t.key.text(f))
}

func (t remove) text(f *family) string { return fmt.Sprintf("delete @%s { %s }", t.set, t.key.text(f)) }
func (t count) text(*family) string    { return fmt.Sprintf("counter name %q", t.name) }
func (untrack) text(*family) string    { return "notrack" }

func (t verdict) text(*family) string {
	if t.chain != "" {
		return t.kind + " " + t.chain
	}
	return t.kind
}

func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
