package wire

import "encoding/binary"

// maxExactSets bounds how many records of one section are compared with each
// other to find RRsets. Beyond it, every TTL of the section becomes the least:
// right as well, only shorter for some.
const maxExactSets = 256

// head returns the offset of the fixed part of record i, owner that of its
// owner name.
func (a *Answer) head(i int) int { return a.base + int(a.TTLs[i].Off) - 4 }

func (a *Answer) owner(msg []byte, i int) int {
	if i == 0 {
		return a.base
	}
	h := a.head(i - 1)
	return h + recordFixed + int(binary.BigEndian.Uint16(msg[h+8:]))
}

// typeClass returns type and class of record i as one word.
func (a *Answer) typeClass(msg []byte, i int) uint32 {
	return binary.BigEndian.Uint32(msg[a.head(i):])
}

// unifyTTLs gives all records of an RRset the least of their TTLs.
func (a *Answer) unifyTTLs(msg []byte) {
	an := int(a.ANCount)
	ns := an + int(a.NSCount)
	a.unifySection(msg, 0, an)
	a.unifySection(msg, an, ns)
	a.unifySection(msg, ns, len(a.TTLs))
}

func (a *Answer) unifySection(msg []byte, from, to int) {
	s := a.TTLs[from:to]
	if len(s) < 2 {
		return
	}
	least, same := s[0].TTL, true
	for i := range s {
		same = same && s[i].TTL == s[0].TTL
		least = min(least, s[i].TTL)
	}
	if same {
		return
	}
	if len(s) > maxExactSets {
		for i := range s {
			s[i].TTL = least
		}
		return
	}
	for i := 1; i < len(s); i++ {
		// Those in front which are of one set are equal already.
		for j := range i {
			if s[j].TTL != s[i].TTL && a.sameSet(msg, from+i, from+j) {
				m := min(s[i].TTL, s[j].TTL)
				s[i].TTL, s[j].TTL = m, m
			}
		}
	}
}

// sameSet reports whether two records belong to one RRset: owner, type and
// class; for signatures also the type they cover (RFC 4034 section 3).
func (a *Answer) sameSet(msg []byte, i, j int) bool {
	tc := a.typeClass(msg, i)
	if tc != a.typeClass(msg, j) {
		return false
	}
	if Type(tc>>16) == TypeRRSIG {
		x, y := a.head(i)+recordFixed, a.head(j)+recordFixed
		if msg[x] != msg[y] || msg[x+1] != msg[y+1] {
			return false
		}
	}
	return equalNames(msg, a.owner(msg, i), a.owner(msg, j))
}

// classify sets Kind, MinTTL and HasSOA.
func (a *Answer) classify(msg []byte, t Type, c Class) {
	soa := a.findSOA(msg)
	a.HasSOA = soa >= 0
	switch a.RCode {
	case RCodeNoError:
		a.Kind = a.kindOfNoError(msg, t, c)
	case RCodeNXDomain:
		a.Kind = NXDomain
	default:
		a.Kind = Failure
	}
	if a.Kind == Failure || a.Kind == Other || (a.Kind != Positive && soa < 0) {
		return
	}
	least := uint32(1<<31 - 1)
	if a.Kind != Positive {
		s := &a.TTLs[soa]
		h := a.head(soa)
		end := h + recordFixed + int(binary.BigEndian.Uint16(msg[h+8:]))
		minimum := binary.BigEndian.Uint32(msg[end-4:])
		if minimum > 1<<31-1 {
			minimum = 0
		}
		s.TTL = min(s.TTL, minimum)
		least = s.TTL
	}
	for i := range a.TTLs[:a.ANCount] {
		least = min(least, a.TTLs[i].TTL)
	}
	a.MinTTL = least
}

// findSOA returns the index of the first SOA of the authority section, or -1.
func (a *Answer) findSOA(msg []byte) int {
	for i := int(a.ANCount); i < int(a.ANCount)+int(a.NSCount); i++ {
		if Type(a.typeClass(msg, i)>>16) == TypeSOA {
			return i
		}
	}
	return -1
}

// kindOfNoError follows the CNAMEs of the answer section from the question,
// in whatever order they are, to see whether the type asked for is there.
func (a *Answer) kindOfNoError(msg []byte, t Type, c Class) Kind {
	name := HeaderLen
	hop := 0
	for ; hop < maxHops; hop++ {
		target := -1
		for i := range int(a.ANCount) {
			tc := a.typeClass(msg, i)
			rt := Type(tc >> 16)
			if rt != t && rt != TypeCNAME && t != TypeANY {
				continue
			}
			if Class(tc&0xffff) != c && c != ClassANY || !equalNames(msg, name, a.owner(msg, i)) {
				continue
			}
			if rt == t || t == TypeANY {
				return Positive
			}
			target = a.head(i) + recordFixed
		}
		if target < 0 {
			break
		}
		name = target
	}
	switch {
	case hop == maxHops, a.ANCount > 0 && hop == 0:
		return Other // a chain without an end, or records of other names
	case a.HasSOA || a.ANCount > 0:
		return NoData
	}
	for i := range int(a.NSCount) {
		if Type(a.typeClass(msg, i)>>16) == TypeNS {
			return Other // a referral
		}
	}
	return NoData
}

// markSpin marks the first RRset of addresses of the answer section, as far
// as its records follow each other.
func (a *Answer) markSpin(msg []byte) {
	s := a.TTLs[:a.ANCount]
	for i := range s {
		tc := a.typeClass(msg, i)
		if tc != uint32(TypeA)<<16|uint32(ClassIN) && tc != uint32(TypeAAAA)<<16|uint32(ClassIN) {
			continue
		}
		s[i].Spin = true
		for j := i + 1; j < len(s) && a.sameSet(msg, i, j); j++ {
			s[j].Spin = true
		}
		return
	}
}
