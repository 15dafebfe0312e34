package lab

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// masqueradeMark is the bit by which kube-proxy marks what it is to masquerade.
const masqueradeMark = 0x4000

// proxy writes kube-proxy's table, as its nftables mode does (table ip kube-proxy, Kubernetes 1.31 and later), for the cluster
// DNS Service: the filter chains that reject new packets to addresses and ports nobody serves, the verdict map from a
// Service's address to its chain, the random choice of an endpoint, the hairpin and off-cluster masquerade.
type proxy struct {
	conn  *nftables.Conn
	table *nftables.Table

	clusterIPs  *nftables.Set
	noEndpoints *nftables.Set
	services    *nftables.Set
}

// SetEndpoints makes kube-proxy send cluster DNS to these endpoints: the whole table anew, in one transaction, as on each
// change of an EndpointSlice. With none, packets to the Service are rejected. Entries of connection tracking stay.
func (c *Cluster) SetEndpoints(endpoints []netip.Addr) error {
	err := c.Node.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		p := &proxy{conn: conn, table: &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "kube-proxy"}}
		// Added first, so that the deletion finds it the first time, too.
		conn.AddTable(p.table)
		conn.DelTable(p.table)
		p.table = conn.AddTable(p.table)
		if err := p.sets(); err != nil {
			return err
		}
		p.filters()
		p.nat()
		for _, proto := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			if err := p.service(VIP, proto, 53, endpoints); err != nil {
				return err
			}
		}
		return conn.Flush()
	})
	if err != nil {
		return fmt.Errorf("cannot write kube-proxy's rules: %w", err)
	}
	return nil
}

func (p *proxy) sets() error {
	service := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	p.clusterIPs = &nftables.Set{Table: p.table, Name: "cluster-ips", KeyType: nftables.TypeIPAddr}
	p.noEndpoints = &nftables.Set{Table: p.table, Name: "no-endpoint-services", KeyType: service, Concatenation: true,
		IsMap: true, DataType: nftables.TypeVerdict}
	p.services = &nftables.Set{Table: p.table, Name: "service-ips", KeyType: service, Concatenation: true,
		IsMap: true, DataType: nftables.TypeVerdict}
	if err := p.conn.AddSet(p.clusterIPs, []nftables.SetElement{{Key: VIP.AsSlice()}}); err != nil {
		return err
	}
	if err := p.conn.AddSet(p.noEndpoints, nil); err != nil {
		return err
	}
	return p.conn.AddSet(p.services, nil)
}

func (p *proxy) chain(name string) *nftables.Chain {
	return p.conn.AddChain(&nftables.Chain{Table: p.table, Name: name})
}

func (p *proxy) base(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	return p.conn.AddChain(&nftables.Chain{Table: p.table, Name: name, Type: kind, Hooknum: hook, Priority: &priority})
}

func (p *proxy) rule(chain *nftables.Chain, parts ...[]expr.Any) {
	var exprs []expr.Any
	for _, part := range parts {
		exprs = append(exprs, part...)
	}
	p.conn.AddRule(&nftables.Rule{Table: p.table, Chain: chain, Exprs: exprs})
}

// filters are the chains that let no new flow through to an address or a port that no Service has.
func (p *proxy) filters() {
	check := p.chain("service-endpoints-check")
	p.rule(check, p.lookupService(p.noEndpoints))
	rejected := p.chain("reject-chain")
	p.rule(rejected, reject())

	ips := p.chain("cluster-ips-check")
	p.rule(ips, loadDst(), inSet(p.clusterIPs), reject())
	p.rule(ips, dstIn(ServiceCIDR), verdict(expr.VerdictDrop, ""))

	const beforeDNAT, afterDNAT = -110, -90
	filter := nftables.ChainTypeFilter
	input := p.base("filter-input", filter, nftables.ChainHookInput, beforeDNAT)
	p.rule(input, stateNew(), verdict(expr.VerdictJump, check.Name))
	forward := p.base("filter-forward", filter, nftables.ChainHookForward, beforeDNAT)
	p.rule(forward, stateNew(), verdict(expr.VerdictJump, check.Name))
	p.rule(forward, stateNew(), verdict(expr.VerdictJump, ips.Name))
	output := p.base("filter-output", filter, nftables.ChainHookOutput, beforeDNAT)
	p.rule(output, stateNew(), verdict(expr.VerdictJump, check.Name))
	post := p.base("filter-output-post-dnat", filter, nftables.ChainHookOutput, afterDNAT)
	p.rule(post, stateNew(), verdict(expr.VerdictJump, ips.Name))
}

func (p *proxy) nat() {
	mark := p.chain("mark-for-masquerade")
	p.rule(mark, changeMark(^uint32(masqueradeMark), masqueradeMark))

	services := p.chain("services")
	p.rule(services, p.lookupService(p.services))

	masquerading := p.chain("masquerading")
	p.rule(masquerading, markIs(masqueradeMark, 0), verdict(expr.VerdictReturn, ""))
	p.rule(masquerading, changeMark(^uint32(0), masqueradeMark), []expr.Any{&expr.Masq{FullyRandom: true}})

	nat := nftables.ChainTypeNAT
	pre := p.base("nat-prerouting", nat, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest)
	p.rule(pre, verdict(expr.VerdictJump, services.Name))
	out := p.base("nat-output", nat, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest)
	p.rule(out, verdict(expr.VerdictJump, services.Name))
	post := p.base("nat-postrouting", nat, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	p.rule(post, verdict(expr.VerdictJump, masquerading.Name))
}

// service writes one port of a Service: its chain, a chain for each endpoint, and its element of the map.
func (p *proxy) service(vip netip.Addr, proto uint8, port uint16, endpoints []netip.Addr) error {
	key := serviceKey(vip, proto, port)
	if len(endpoints) == 0 {
		return p.conn.SetAddElements(p.noEndpoints, []nftables.SetElement{{Key: key,
			VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: "reject-chain"}}})
	}
	name := map[uint8]string{unix.IPPROTO_UDP: "udp/dns", unix.IPPROTO_TCP: "tcp/dns-tcp"}[proto]
	svc := p.chain("service-FY5PMXPG-kube-system/kube-dns/" + name)
	choices := make([]nftables.SetElement, len(endpoints))
	for i, addr := range endpoints {
		ep := p.chain(fmt.Sprintf("endpoint-%08X-kube-system/kube-dns/%s__%s/53", 0x5EED0000+i, name, addr))
		p.rule(ep, srcIs(addr), verdict(expr.VerdictJump, "mark-for-masquerade"))
		p.rule(ep, l4proto(proto), []expr.Any{
			&expr.Immediate{Register: 1, Data: addr.AsSlice()},
			&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(port)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
		})
		choices[i] = nftables.SetElement{Key: binaryutil.NativeEndian.PutUint32(uint32(i)),
			VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: ep.Name}}
	}
	p.rule(svc, srcNotIn(ClusterCIDR), verdict(expr.VerdictJump, "mark-for-masquerade"))
	pick := &nftables.Set{Table: p.table, Anonymous: true, Constant: true, IsMap: true,
		KeyType: nftables.TypeInteger, DataType: nftables.TypeVerdict}
	if err := p.conn.AddSet(pick, choices); err != nil {
		return err
	}
	p.rule(svc, []expr.Any{
		&expr.Numgen{Register: 1, Modulus: uint32(len(endpoints)), Type: unix.NFT_NG_RANDOM},
		&expr.Lookup{SourceRegister: 1, SetName: pick.Name, SetID: pick.ID, IsDestRegSet: true},
	})
	return p.conn.SetAddElements(p.services, []nftables.SetElement{{Key: key,
		VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: svc.Name}}})
}
