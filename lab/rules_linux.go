package lab

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The parts that rules are put together from. Register 1 is used throughout; a concatenation needs the 4-byte registers,
// which begin at 8 and lie over register 1.

// icmpPortUnreachable is the code of ICMP destination unreachable (RFC 792) that `reject` sends.
const icmpPortUnreachable = 3

// Offsets in the IPv4 header (RFC 791) and in the headers of UDP and TCP, which both begin with the ports.
const (
	srcOffset     = 12
	dstOffset     = 16
	srcPortOffset = 0
	dstPortOffset = 2
)

func loadSrc() []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: srcOffset, Len: 4}}
}

func loadDst() []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: dstOffset, Len: 4}}
}

func compare(op expr.CmpOp, data []byte) expr.Any { return &expr.Cmp{Op: op, Register: 1, Data: data} }

func srcIs(a netip.Addr) []expr.Any { return append(loadSrc(), compare(expr.CmpOpEq, a.AsSlice())) }

func masked(p netip.Prefix, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: net.CIDRMask(p.Bits(), 32), Xor: make([]byte, 4)},
		compare(op, p.Masked().Addr().AsSlice()),
	}
}

func srcIn(p netip.Prefix) []expr.Any    { return append(loadSrc(), masked(p, expr.CmpOpEq)...) }
func srcNotIn(p netip.Prefix) []expr.Any { return append(loadSrc(), masked(p, expr.CmpOpNeq)...) }
func dstIn(p netip.Prefix) []expr.Any    { return append(loadDst(), masked(p, expr.CmpOpEq)...) }

func l4proto(proto uint8) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, compare(expr.CmpOpEq, []byte{proto})}
}

func dstPort(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: dstPortOffset, Len: 2},
		compare(expr.CmpOpEq, binaryutil.BigEndian.PutUint16(port)),
	}
}

func stateNew() []expr.Any {
	mask := binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		compare(expr.CmpOpNeq, make([]byte, 4)),
	}
}

// markIs compares the bits of mask in the packet's mark.
func markIs(mask, value uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: make([]byte, 4)},
		compare(expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(value)),
	}
}

// changeMark sets the packet's mark to (mark & keep) ^ flip.
func changeMark(keep, flip uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(keep), Xor: binaryutil.NativeEndian.PutUint32(flip)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
	}
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

func reject() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable}}
}

func inSet(set *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID}}
}

// lookupService goes where the map sends `ip daddr . meta l4proto . th dport`.
func (p *proxy) lookupService(set *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 8, Base: expr.PayloadBaseNetworkHeader, Offset: dstOffset, Len: 4},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 9},
		&expr.Payload{DestRegister: 10, Base: expr.PayloadBaseTransportHeader, Offset: dstPortOffset, Len: 2},
		&expr.Lookup{SourceRegister: 8, SetName: set.Name, SetID: set.ID, IsDestRegSet: true},
	}
}

// serviceKey is the concatenation that lookupService looks up: each part padded to four bytes.
func serviceKey(addr netip.Addr, proto uint8, port uint16) []byte {
	key := make([]byte, 12)
	copy(key, addr.AsSlice())
	key[4] = proto
	binary.BigEndian.PutUint16(key[8:], port)
	return key
}
