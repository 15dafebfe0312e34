package intercept

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// elemsPerMessage keeps a message under the 64 KiB that the length of an attribute can say: a prefix of IPv6 takes 68 bytes.
const elemsPerMessage = 500

// policyAccept is NF_ACCEPT (linux/netfilter.h).
const policyAccept = 1

// install adds the messages that make a whole table.
func (b *batch) install(t *table, k *kernel) error {
	m := machine{t.family, k}
	fam := k.family(t.family)
	name := attributeName(unix.NFTA_TABLE_NAME, t.name)
	if k.lacks(featureOwner) {
		b.add(message{typ: unix.NFT_MSG_NEWTABLE, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, family: fam, attrs: name, about: "table " + t.name})
	} else {
		b.add(message{typ: unix.NFT_MSG_NEWTABLE, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, family: fam, needs: featureOwner,
			attrs: append(name, attribute32(unix.NFTA_TABLE_FLAGS, k.ownerFlag)...), about: "owned table " + t.name})
	}
	for _, c := range t.counters {
		b.add(message{typ: unix.NFT_MSG_NEWOBJ, flags: unix.NLM_F_CREATE, family: fam, about: "counter " + c, attrs: newCounter(t.name, c)})
	}
	for _, s := range t.sets {
		b.setID++
		b.add(message{typ: unix.NFT_MSG_NEWSET, flags: unix.NLM_F_CREATE, family: fam, about: "set " + s.name, attrs: newSet(t, s, b.setID)})
		b.fill(t, k, s, s.elems)
	}
	for _, c := range t.chains {
		b.add(message{typ: unix.NFT_MSG_NEWCHAIN, flags: unix.NLM_F_CREATE, family: fam, about: "chain " + c.name, attrs: newChain(t.name, c)})
	}
	for _, c := range t.chains {
		for i, r := range c.rules {
			if err := b.rule(m, t.name, c.name, i, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *batch) rule(m machine, table, chain string, i int, r rule) error {
	exprs, ok, err := m.encode(r)
	if err != nil || !ok {
		return err
	}
	attrs := append(attributeName(unix.NFTA_RULE_TABLE, table), attributeName(unix.NFTA_RULE_CHAIN, chain)...)
	attrs = append(attrs, attribute(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, exprs)...)
	b.add(message{typ: unix.NFT_MSG_NEWRULE, flags: unix.NLM_F_CREATE | unix.NLM_F_APPEND, family: m.k.family(m.f),
		about: fmt.Sprintf("rule %d of chain %s", i+1, chain), needs: r.asks(m.k), attrs: attrs})
	return nil
}

// asks is the feature whose absence would explain that the kernel refuses the rule. fib is asked about first where a rule
// has both: the other one is found by the next refusal.
func (r rule) asks(k *kernel) feature {
	needs := r.needs
	for _, t := range r.terms {
		switch t.(type) {
		case isLocal:
			if !k.lacks(featureFib) {
				return featureFib
			}
		case socketIs:
			if !k.lacks(featureSocket) {
				needs = featureSocket
			}
		}
	}
	return needs
}

// uninstall adds the message that removes a table and all that is in it.
func (b *batch) uninstall(name string, fam byte) {
	b.add(message{typ: unix.NFT_MSG_DELTABLE, family: fam, attrs: attributeName(unix.NFTA_TABLE_NAME, name), about: "table " + name})
}

// empty adds the message that takes all elements out of a set.
func (b *batch) empty(t *table, k *kernel, set string) {
	attrs := append(attributeName(unix.NFTA_SET_ELEM_LIST_TABLE, t.name), attributeName(unix.NFTA_SET_ELEM_LIST_SET, set)...)
	b.add(message{typ: unix.NFT_MSG_DELSETELEM, family: k.family(t.family), attrs: attrs, about: "elements of " + set})
}

// clear adds the message that takes all rules out of a chain.
func (b *batch) clear(t *table, k *kernel, chain string) {
	attrs := append(attributeName(unix.NFTA_RULE_TABLE, t.name), attributeName(unix.NFTA_RULE_CHAIN, chain)...)
	b.add(message{typ: unix.NFT_MSG_DELRULE, family: k.family(t.family), attrs: attrs, about: "rules of " + chain})
}

// fill adds the messages that put elements into a set.
func (b *batch) fill(t *table, k *kernel, s *set, elems []elem) {
	for len(elems) > 0 {
		n := min(len(elems), elemsPerMessage)
		attrs := append(attributeName(unix.NFTA_SET_ELEM_LIST_TABLE, t.name), attributeName(unix.NFTA_SET_ELEM_LIST_SET, s.name)...)
		attrs = append(attrs, attribute(unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, s.encodeElems(elems[:n]))...)
		b.add(message{typ: unix.NFT_MSG_NEWSETELEM, flags: unix.NLM_F_CREATE, family: k.family(t.family), attrs: attrs, about: "elements of " + s.name})
		elems = elems[n:]
	}
}

func newCounter(table, name string) []byte {
	attrs := append(attributeName(unix.NFTA_OBJ_TABLE, table), attributeName(unix.NFTA_OBJ_NAME, name)...)
	attrs = append(attrs, attribute32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)...)
	zero := append(attribute64(unix.NFTA_COUNTER_BYTES, 0), attribute64(unix.NFTA_COUNTER_PACKETS, 0)...)
	return append(attrs, attribute(unix.NFTA_OBJ_DATA|unix.NLA_F_NESTED, zero)...)
}

func newSet(t *table, s *set, id uint32) []byte {
	var flags, number, length uint32
	for _, k := range s.types {
		number = number<<6 | k.number(t.family)
		if len(s.types) > 1 {
			length += (k.width(t.family) + 3) &^ 3
		} else {
			length = k.width(t.family)
		}
	}
	attrs := append(attributeName(unix.NFTA_SET_TABLE, t.name), attributeName(unix.NFTA_SET_NAME, s.name)...)
	attrs = append(attrs, attribute32(unix.NFTA_SET_ID, id)...)
	attrs = append(attrs, attribute32(unix.NFTA_SET_KEY_TYPE, number)...)
	attrs = append(attrs, attribute32(unix.NFTA_SET_KEY_LEN, length)...)
	if s.mapped {
		flags |= unix.NFT_SET_MAP
		attrs = append(attrs, attribute32(unix.NFTA_SET_DATA_TYPE, kindAddr.number(t.family))...)
		attrs = append(attrs, attribute32(unix.NFTA_SET_DATA_LEN, kindAddr.width(t.family))...)
	}
	if s.interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	if s.dynamic {
		flags |= unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL
		attrs = append(attrs, attribute64(unix.NFTA_SET_TIMEOUT, uint64(s.timeout.Milliseconds()))...)
		attrs = append(attrs, attribute(unix.NFTA_SET_DESC|unix.NLA_F_NESTED, attribute32(unix.NFTA_SET_DESC_SIZE, s.size))...)
	}
	if s.types[0] == kindLink {
		attrs = append(attrs, attribute(unix.NFTA_SET_USERDATA, append([]byte{udataKeyByteOrder, 4}, native(hostByteOrder)...))...)
	}
	return append(attrs, attribute32(unix.NFTA_SET_FLAGS, flags)...)
}

// What `nft list` must be told to print names of interfaces (libnftnl, udata.h; nftables, datatype.h). The kernel stores it only.
const (
	udataKeyByteOrder = 0
	hostByteOrder     = 1
)

func newChain(table string, c *chain) []byte {
	attrs := append(attributeName(unix.NFTA_CHAIN_TABLE, table), attributeName(unix.NFTA_CHAIN_NAME, c.name)...)
	if c.hook == "" {
		return attrs
	}
	hook := uint32(unix.NF_INET_PRE_ROUTING)
	if c.hook == "output" {
		hook = unix.NF_INET_LOCAL_OUT
	}
	where := append(attribute32(unix.NFTA_HOOK_HOOKNUM, hook), attribute32(unix.NFTA_HOOK_PRIORITY, uint32(c.priority))...)
	attrs = append(attrs, attribute(unix.NFTA_CHAIN_HOOK|unix.NLA_F_NESTED, where)...)
	attrs = append(attrs, attribute32(unix.NFTA_CHAIN_POLICY, policyAccept)...)
	return append(attrs, attributeName(unix.NFTA_CHAIN_TYPE, c.typ)...)
}
