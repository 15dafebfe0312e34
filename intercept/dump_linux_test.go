package intercept_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func (w *world) tables() []*nftables.Table {
	w.t.Helper()
	var out []*nftables.Table
	w.must(w.node.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		out, err = c.ListTables()
		return err
	}))
	return out
}

// dump is the node's whole ruleset, routes of all tables, routing rules, links and addresses as text.
func (w *world) dump() string {
	w.t.Helper()
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	w.must(w.node.Do(func() error { return dumpRules(add) }))
	h := w.node.Netlink()
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		found, err := h.RouteListFiltered(fam, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		w.must(err)
		for _, r := range found {
			if r.Flags&unix.RTM_F_CLONED == 0 {
				add("route %s", r)
			}
		}
		rules, err := h.RuleList(fam)
		w.must(err)
		for _, r := range rules {
			add("rule %s", r)
		}
		addrs, err := h.AddrList(nil, fam)
		w.must(err)
		for _, a := range addrs {
			add("address %s", a.IPNet)
		}
	}
	links, err := h.LinkList()
	w.must(err)
	for _, l := range links {
		add("link %s", l.Attrs().Name)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func dumpRules(add func(string, ...any)) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := c.ListTables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		add("table %d %s %d", t.Family, t.Name, t.Flags)
		sets, err := c.GetSets(t)
		if err != nil {
			return err
		}
		for _, s := range sets {
			add("set %d %s %s", t.Family, t.Name, s.Name)
		}
	}
	chains, err := c.ListChains()
	if err != nil {
		return err
	}
	for _, ch := range chains {
		add("chain %d %s %s", ch.Table.Family, ch.Table.Name, ch.Name)
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return err
		}
		for _, r := range rules {
			add("rule of %s %s: %d, %s", ch.Table.Name, ch.Name, r.Handle, exprs(r.Exprs))
		}
	}
	return nil
}

var pointer = regexp.MustCompile(`0x[0-9a-f]{8,}`)

func exprs(list []expr.Any) string {
	parts := make([]string, len(list))
	for i, e := range list {
		parts[i] = pointer.ReplaceAllString(fmt.Sprintf("%+v", e), "")
	}
	return strings.Join(parts, " ")
}

// same fails the test when the node is not as it was.
func (w *world) same(before string) {
	w.t.Helper()
	if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(w.dump(), "\n")); diff != "" {
		w.t.Errorf("the node has changed (-before +now):\n%s", diff)
	}
}
