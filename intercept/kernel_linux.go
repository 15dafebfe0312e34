package intercept

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// nftTableOwner is NFT_TABLE_F_OWNER (linux/netfilter/nf_tables.h), Linux 5.12.
const nftTableOwner = 2

// kernel is what is known of the running kernel. Features are found by asking for them and being refused, never by version.
type kernel struct {
	missing   map[feature]bool
	ownerFlag uint32
	// What an expression is called. Tests put names here that no kernel knows, to be refused by this one.
	names map[string]string
}

func newKernel() *kernel {
	return &kernel{missing: map[feature]bool{}, ownerFlag: nftTableOwner, names: map[string]string{}}
}

func (k *kernel) lacks(f feature) bool { return k.missing[f] }

func (k *kernel) family(f *family) uint8 {
	if f.v6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func (k *kernel) rename(expr []byte) []byte {
	for name, other := range k.names {
		expr = bytes.Replace(expr, append([]byte(name), 0), append([]byte(other), 0), 1)
	}
	return expr
}

// learn notes what a refusal says about the kernel; false when it says nothing and the transaction has failed for good.
func (k *kernel) learn(r *refusal) bool {
	switch r.errno {
	case unix.ENOENT, unix.EOPNOTSUPP, unix.EINVAL, unix.EPROTONOSUPPORT:
	default:
		return false
	}
	if r.needs == noFeature || k.missing[r.needs] {
		return false
	}
	k.missing[r.needs] = true
	return true
}

// lost names each missing feature with what it costs.
func (k *kernel) lost() []string {
	var out []string
	if k.missing[featureOwner] {
		out = append(out, "owned tables (Linux 5.12): after a kill the rules stay until the next start or `dnslet cleanup`; they let every "+
			"packet go to cluster DNS, pods at once, the node's own lookups after a heartbeat; others can flush them")
	}
	if k.missing[featureSocket] {
		out = append(out, "nft_socket: the upstream leg is tracked by conntrack; an agent whose sockets are gone is noticed by the heartbeat only")
	}
	if k.missing[featureFib] {
		out = append(out, "nft_fib: a deleted route of ours is noticed by the agent, not by the kernel: questions are lost until it is back")
	}
	return out
}

// process names the process behind a netlink port, as far as that can be told: the kernel gives the first netlink socket of
// a process the number of the process.
func process(port uint32) string {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", port))
	if err != nil {
		return fmt.Sprintf("netlink port %d", port)
	}
	return fmt.Sprintf("netlink port %d, probably process %d (%s)", port, port, strings.TrimSpace(string(comm)))
}
