package intercept

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// table is one nftables table as data: what rules.go fills and encode_linux.go sends.
type table struct {
	name     string
	family   *family
	counters []string
	sets     []*set
	chains   []*chain
}

// kind is the type of one part of a set's key, or of a map's data.
type kind uint8

const (
	kindAddr kind = iota
	kindProto
	kindPort
	kindLink
)

func (k kind) text(f *family) string {
	switch k {
	case kindAddr:
		if f.v6 {
			return "ipv6_addr"
		}
		return "ipv4_addr"
	case kindProto:
		return "inet_proto"
	case kindPort:
		return "inet_service"
	}
	return "ifname"
}

// set is a set, or a map from address to address when mapped is true.
type set struct {
	name     string
	types    []kind
	mapped   bool
	interval bool          // elements are prefixes
	dynamic  bool          // rules add elements, which live for timeout
	timeout  time.Duration // of elements that rules add
	size     uint32        // of a dynamic set
	elems    []elem
}

// elem is an element at the time of Install. Which fields count is a matter of the set's types.
type elem struct {
	addr   netip.Addr
	proto  Transport
	port   uint16
	link   string
	prefix netip.Prefix // interval sets
	to     netip.Addr   // maps
}

// chain is a base chain when hook is set.
type chain struct {
	name     string
	typ      string // filter or route
	hook     string // prerouting or output
	priority int32
	about    string // printed above it
	rules    []rule
}

func (t *table) chain(name string) *chain {
	for _, c := range t.chains {
		if c.name == name {
			return c
		}
	}
	return nil
}

func (t *table) set(name string) *set {
	for _, s := range t.sets {
		if s.name == name {
			return s
		}
	}
	return nil
}

func (t *table) print(b *strings.Builder) {
	fmt.Fprintf(b, "table %s %s {\n\tflags owner\n", t.family, t.name)
	for _, name := range t.counters {
		fmt.Fprintf(b, "\tcounter %s { }\n", name)
	}
	for _, s := range t.sets {
		s.print(b, t.family)
	}
	for _, c := range t.chains {
		c.print(b, t.family)
	}
	b.WriteString("}\n")
}

func (s *set) print(b *strings.Builder, f *family) {
	word, to := "set", ""
	if s.mapped {
		word, to = "map", " : "+kindAddr.text(f)
	}
	types := make([]string, len(s.types))
	for i, k := range s.types {
		types[i] = k.text(f)
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\ttype %s%s\n", word, s.name, strings.Join(types, " . "), to)
	switch {
	case s.dynamic:
		fmt.Fprintf(b, "\t\tsize %d\n\t\tflags dynamic,timeout\n\t\ttimeout %s\n", s.size, s.timeout)
	case s.interval:
		b.WriteString("\t\tflags interval\n")
	}
	if len(s.elems) > 0 {
		elems := make([]string, len(s.elems))
		for i, e := range s.elems {
			elems[i] = e.text(s)
		}
		fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(elems, ", "))
	}
	b.WriteString("\t}\n")
}

func (e elem) text(s *set) string {
	if s.interval {
		return prefixText(e.prefix)
	}
	parts := make([]string, len(s.types))
	for i, k := range s.types {
		switch k {
		case kindAddr:
			parts[i] = e.addr.String()
		case kindProto:
			parts[i] = e.proto.String()
		case kindPort:
			parts[i] = fmt.Sprint(e.port)
		case kindLink:
			parts[i] = fmt.Sprintf("%q", e.link)
		}
	}
	out := strings.Join(parts, " . ")
	if s.mapped {
		out += " : " + e.to.String()
	}
	return out
}

func (c *chain) print(b *strings.Builder, f *family) {
	fmt.Fprintf(b, "\tchain %s {", c.name)
	if c.about != "" {
		fmt.Fprintf(b, " # %s", c.about)
	}
	b.WriteByte('\n')
	if c.hook != "" {
		fmt.Fprintf(b, "\t\ttype %s hook %s priority %d; policy accept;\n", c.typ, c.hook, c.priority)
	}
	for _, r := range c.rules {
		words := make([]string, len(r.terms))
		for i, t := range r.terms {
			words[i] = t.text(f)
		}
		fmt.Fprintf(b, "\t\t%s\n", strings.Join(words, " "))
	}
	b.WriteString("\t}\n")
}
