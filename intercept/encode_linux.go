package intercept

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The registers of the nftables machine are 16 words of 4 bytes; word n is addressed as NFT_REG32_00+n. Each part of a
// concatenation begins on a word of its own.
const firstRegister = unix.NFT_REG32_00

// addrType is RTN_LOCAL as `fib type` writes it.
const addrTypeLocal = unix.RTN_LOCAL

// machine encodes terms for one family and one kernel.
type machine struct {
	f *family
	k *kernel
}

func (m machine) addrLen() uint32 {
	if m.f.v6 {
		return 16
	}
	return 4
}

// addrOffset is where an address lies in the header: RFC 791 section 3.1, RFC 8200 section 3.
func (m machine) addrOffset(x field) uint32 {
	switch {
	case m.f.v6 && x == saddr:
		return 8
	case m.f.v6:
		return 24
	case x == saddr:
		return 12
	}
	return 16
}

func (m machine) width(x field) uint32 {
	switch x {
	case saddr, daddr:
		return m.addrLen()
	case sport, dport:
		return 2
	}
	return 1
}

// load puts the fields into consecutive registers, the layout of a set's key.
func (m machine) load(k key) []expr.Any {
	reg := uint32(firstRegister)
	var out []expr.Any
	for _, x := range k {
		switch x {
		case saddr, daddr:
			out = append(out, &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: m.addrOffset(x), Len: m.addrLen()})
		case sport:
			out = append(out, &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2})
		case dport:
			out = append(out, &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
		case l4proto:
			out = append(out, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg})
		}
		reg += (m.width(x) + 3) / 4
	}
	return out
}

func equal(data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: firstRegister, Data: data}
}
func differ(data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: firstRegister, Data: data}
}

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// encode returns the expressions of one rule, or false when this kernel cannot have the rule.
func (m machine) encode(r rule) ([]byte, bool, error) {
	if m.k.lacks(r.needs) {
		return nil, false, nil
	}
	var list []byte
	for _, t := range r.terms {
		exprs, err := m.term(t)
		if err != nil {
			return nil, false, err
		}
		for _, e := range exprs {
			data, err := m.marshal(e)
			if err != nil {
				return nil, false, err
			}
			list = append(list, attribute(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, data)...)
		}
	}
	return list, true, nil
}

// marshal is expr.Marshal, but for the one expression that it cannot write.
func (m machine) marshal(e any) ([]byte, error) {
	switch e := e.(type) {
	case writeAddr:
		return m.write(e), nil
	case expr.Any:
		b, err := expr.Marshal(byte(m.k.family(m.f)), e)
		return m.k.rename(b), err
	}
	return nil, fmt.Errorf("cannot encode %T", e)
}

// term returns the expressions of one term. A term that needs a feature which this kernel lacks has none, and so holds.
func (m machine) term(t term) ([]any, error) {
	switch t := t.(type) {
	case isLocal:
		if m.k.lacks(featureFib) {
			return nil, nil
		}
		return anys(&expr.Fib{Register: firstRegister, ResultADDRTYPE: true, FlagDADDR: true}, equal(native(addrTypeLocal)...)), nil
	case socketIs:
		if m.k.lacks(featureSocket) {
			return nil, nil
		}
		return anys(&expr.Socket{Key: expr.SocketKeyMark, Register: firstRegister}, equal(native(t.mark)...)), nil
	case translate:
		load := m.load(key{t.field})
		lookup := &expr.Lookup{SourceRegister: firstRegister, DestRegister: firstRegister, IsDestRegSet: true, SetName: t.by}
		return append(anys(append(load, lookup)...), writeAddr(t)), nil
	case untrack:
		return anys(&expr.Notrack{}), nil
	case verdict:
		return m.verdict(t)
	case count:
		return anys(&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: t.name}), nil
	}
	if exprs := m.condition(t); exprs != nil {
		return anys(exprs...), nil
	}
	if exprs := m.setAction(t); exprs != nil {
		return anys(exprs...), nil
	}
	return nil, fmt.Errorf("cannot encode %T", t)
}

func (m machine) condition(t term) []expr.Any {
	switch t := t.(type) {
	case inSet:
		return append(m.load(t.key), &expr.Lookup{SourceRegister: firstRegister, SetName: t.set})
	case notInSet:
		return append(m.load(t.key), &expr.Lookup{SourceRegister: firstRegister, SetName: t.set, Invert: true})
	case inPrefix:
		return m.inPrefix(t)
	case isProto:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstRegister}, equal(byte(t.proto))}
	case isMark:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: firstRegister}, equal(native(t.mark)...)}
	case fromLink:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: firstRegister}, equal(linkName(t.name)...)}
	case notFrom:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: firstRegister}, differ(linkName(t.name)...)}
	case fromLinks:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: firstRegister}, &expr.Lookup{SourceRegister: firstRegister, SetName: t.set}}
	case flagsAre:
		return append(m.flags(t.mask), equal(byte(t.value)))
	case flagsAny:
		return append(m.flags(t.mask), differ(0))
	}
	return nil
}

func (m machine) setAction(t term) []expr.Any {
	switch t := t.(type) {
	case update:
		return append(m.load(t.key), &expr.Dynset{SrcRegKey: firstRegister, SetName: t.set, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: t.timeout})
	case remove:
		return append(m.load(t.key), &expr.Dynset{SrcRegKey: firstRegister, SetName: t.set, Operation: dynsetDelete})
	case overLimit:
		limit := &expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(t.rate), Unit: expr.LimitTimeSecond, Burst: t.burst(), Over: true}
		return append(m.load(key{saddr}), &expr.Dynset{SrcRegKey: firstRegister, SetName: "rate", Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{limit}})
	}
	return nil
}

// dynsetDelete is NFT_DYNSET_OP_DELETE (linux/netfilter/nf_tables.h), Linux 5.4.
const dynsetDelete = 2

// flags loads the TCP flags byte (RFC 9293 section 3.1) under a mask; the packet must be TCP.
func (m machine) flags(mask tcpFlags) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstRegister}, equal(byte(TCP)),
		&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: 1, Mask: []byte{byte(mask)}, Xor: []byte{0}},
	}
}

func (m machine) inPrefix(t inPrefix) []expr.Any {
	out := m.load(key{t.field})
	if !t.prefix.IsSingleIP() {
		mask := make([]byte, m.addrLen())
		for i := range t.prefix.Bits() {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		out = append(out, &expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: m.addrLen(), Mask: mask, Xor: make([]byte, m.addrLen())})
	}
	if t.not {
		return append(out, differ(t.prefix.Addr().AsSlice()...))
	}
	return append(out, equal(t.prefix.Addr().AsSlice()...))
}

func (m machine) verdict(t verdict) ([]any, error) {
	kinds := map[string]expr.VerdictKind{"accept": expr.VerdictAccept, "drop": expr.VerdictDrop, "jump": expr.VerdictJump, "goto": expr.VerdictGoto}
	kind, ok := kinds[t.kind]
	if !ok {
		return nil, fmt.Errorf("cannot encode verdict %q", t.kind)
	}
	return anys(&expr.Verdict{Kind: kind, Chain: t.chain}), nil
}

// writeAddr writes the first register into an address of the packet and mends the checksums. expr.Payload cannot say this
// for IPv6, which has no checksum of its own header but a pseudo header in those of UDP and TCP.
type writeAddr translate

func (m machine) write(w writeAddr) []byte {
	attrs := attribute32(unix.NFTA_PAYLOAD_SREG, firstRegister)
	attrs = append(attrs, attribute32(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_NETWORK_HEADER)...)
	attrs = append(attrs, attribute32(unix.NFTA_PAYLOAD_OFFSET, m.addrOffset(w.field))...)
	attrs = append(attrs, attribute32(unix.NFTA_PAYLOAD_LEN, m.addrLen())...)
	if !m.f.v6 {
		attrs = append(attrs, attribute32(unix.NFTA_PAYLOAD_CSUM_TYPE, unix.NFT_PAYLOAD_CSUM_INET)...)
		attrs = append(attrs, attribute32(unix.NFTA_PAYLOAD_CSUM_OFFSET, 10)...)
	}
	attrs = append(attrs, attribute32(unix.NFTA_PAYLOAD_CSUM_FLAGS, unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR)...)
	return append(attribute(unix.NFTA_EXPR_NAME, []byte("payload\x00")), attribute(unix.NFTA_EXPR_DATA|unix.NLA_F_NESTED, attrs)...)
}

func anys(in ...expr.Any) []any {
	out := make([]any, len(in))
	for i, v := range in {
		out[i] = v
	}
	return out
}

// attribute is one netlink attribute, padded.
func attribute(typ uint16, data []byte) []byte {
	b, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: typ, Data: data}})
	if err != nil {
		panic(err) // only when data is over 64 KiB, which nothing here is
	}
	return b
}

func attribute32(typ uint16, v uint32) []byte {
	return attribute(typ, binary.BigEndian.AppendUint32(nil, v))
}

func attribute64(typ uint16, v uint64) []byte {
	return attribute(typ, binary.BigEndian.AppendUint64(nil, v))
}

func attributeName(typ uint16, name string) []byte { return attribute(typ, append([]byte(name), 0)) }

// linkName is an interface's name as the kernel compares it: 16 bytes, padded with zeros.
func linkName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// elemKey is the key of an element, each part padded to a register.
func (s *set) elemKey(e elem) []byte {
	var b []byte
	for _, k := range s.types {
		switch k {
		case kindAddr:
			b = append(b, e.addr.AsSlice()...)
		case kindProto:
			b = append(b, byte(e.proto))
		case kindPort:
			b = binary.BigEndian.AppendUint16(b, e.port)
		case kindLink:
			b = append(b, linkName(e.link)...)
		}
		if len(s.types) > 1 {
			for len(b)%4 != 0 {
				b = append(b, 0)
			}
		}
	}
	return b
}

// encodeElems returns the list of elements as NFTA_SET_ELEM_LIST_ELEMENTS has it.
func (s *set) encodeElems(elems []elem) []byte {
	var list []byte
	for _, e := range elems {
		if s.interval {
			list = append(list, interval(e.prefix)...)
			continue
		}
		item := attribute(unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, attribute(unix.NFTA_DATA_VALUE, s.elemKey(e)))
		if s.mapped {
			item = append(item, attribute(unix.NFTA_SET_ELEM_DATA|unix.NLA_F_NESTED, attribute(unix.NFTA_DATA_VALUE, e.to.AsSlice()))...)
		}
		list = append(list, attribute(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, item)...)
	}
	return list
}

// interval is a prefix as two elements: its first address, and the first address after it, marked as an end. The last prefix
// of the address space has no end.
func interval(p netip.Prefix) []byte {
	start := attribute(unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, attribute(unix.NFTA_DATA_VALUE, p.Addr().AsSlice()))
	out := attribute(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, start)
	next := p.Addr().AsSlice()
	i := p.Bits() - 1
	for ; i >= 0; i-- { // add one to the prefix, as a number
		bit := byte(0x80) >> (i % 8)
		next[i/8] ^= bit
		if next[i/8]&bit != 0 {
			break
		}
	}
	if i < 0 {
		return out
	}
	end := attribute32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	end = append(end, attribute(unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, attribute(unix.NFTA_DATA_VALUE, next))...)
	return append(out, attribute(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, end)...)
}

// The numbers by which `nft list` knows the types of a set's key (nftables, include/datatype.h). The kernel stores them only.
func (k kind) number(f *family) uint32 {
	switch k {
	case kindAddr:
		if f.v6 {
			return 8
		}
		return 7
	case kindProto:
		return 12
	case kindPort:
		return 13
	}
	return 41
}

func (k kind) width(f *family) uint32 {
	switch k {
	case kindAddr:
		if f.v6 {
			return 16
		}
		return 4
	case kindProto:
		return 1
	case kindPort:
		return 2
	}
	return unix.IFNAMSIZ
}
