package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dnslet/dnslet/api"
)

// printStatus writes the screen of `dnslet status`: the verdict first, then one part after the other in a fixed order,
// what is wrong beside what it is wrong with.
func printStatus(w io.Writer, s *api.Status, p paint, now time.Time) error {
	v := &screen{p: p}
	verdict(v, s)
	interception(v, &s.Interception)
	listeners(v, s.Listeners)
	queries(v, &s.Queries)
	cacheView(v, &s.Cache)
	for i := range s.Upstreams {
		upstreamView(v, &s.Upstreams[i])
	}
	zones(v, s.Zones)
	configView(v, &s.Config, now)
	process(v, &s.Process)
	conntrack(v, s.Conntrack)
	_, err := io.WriteString(w, v.b.String())
	return err
}

func verdict(v *screen, s *api.Status) {
	text := s.Phase
	if s.Interception.Installed && s.Phase == api.Serving {
		text += " this node's questions to " + vipList(s.Interception.VIPs)
	}
	if s.Reason != "" {
		text = s.Phase + ": " + s.Reason
	}
	v.part(s.State, s.Host, text)
	v.more(facts("dnslet "+s.Version, fmt.Sprintf("pid %d", s.PID), "up "+span(seconds(s.UptimeSeconds)), prefixed("kernel ", s.Kernel)))
	for _, c := range s.Checks {
		if !c.OK && !strings.Contains(s.Reason, c.Reason) {
			v.more("not ready: " + c.Name + ": " + c.Reason)
		}
	}
	v.b.WriteByte('\n')
}

func vipList(vips []api.VIP) string {
	names := make([]string, len(vips))
	for i, v := range vips {
		names[i] = v.VIP
	}
	return strings.Join(names, ", ")
}

func interception(v *screen, i *api.Interception) {
	if i.State == "" {
		return // the agent has not come so far
	}
	text := "not in use (mode " + i.Mode + ")"
	switch {
	case i.Installed && i.Owned:
		text = "installed, falls with the agent (mode " + i.Mode + ")"
	case i.Installed:
		text = "installed, guarded by heartbeat and socket match only (mode " + i.Mode + ")"
	}
	v.part(i.State, "interception", text)
	if i.Reason != "" {
		v.more(i.Reason)
	}
	for _, vip := range i.VIPs {
		v.more(fmt.Sprintf("%s -> %s   udp %s   tcp %s", vip.VIP, vip.Listener, alive(vip.UDP), alive(vip.TCP)))
	}
	if i.Installed {
		v.more(packets(i.Packets))
	}
	if i.Lapses > 0 {
		v.more("heartbeat lapsed " + plural(int(i.Lapses), "time", "times"))
	}
	for _, m := range i.Missing {
		v.more("without: " + m)
	}
	for _, n := range i.Notes {
		v.more("note: " + n)
	}
}

// leftToClusterDNS are the reasons for which the kernel leaves a packet to kube-proxy, in the order in which it looks, and
// the words for them.
var leftToClusterDNS = [][2]string{
	{"uplink", "from an uplink"}, {"loopback", "from loopback"}, {"resolvers", "asked by cluster DNS itself"}, {"outOfScope", "out of scope"},
	{"bypassed", "bypassed"}, {"limited", "above the rate"}, {"unserved", "no heartbeat or socket"}, {"lastResort", "last resort"},
}

// packets sums up where the kernel sent what came for a virtual IP.
func packets(n map[string]uint64) string {
	var left uint64
	var why []string
	for _, k := range leftToClusterDNS {
		if c := n[k[0]]; c > 0 {
			left += c
			why = append(why, k[1]+" "+count(c))
		}
	}
	text := count(left) + " left to cluster DNS"
	if len(why) > 0 {
		text += " (" + strings.Join(why, ", ") + ")"
	}
	return facts("packets: "+count(n["served"]+n["stream"])+" to dnslet", text)
}

func alive(ok bool) string {
	if ok {
		return api.OK
	}
	return api.Fail + " (to cluster DNS)"
}

func listeners(v *screen, ls []api.Listener) {
	if len(ls) == 0 {
		return
	}
	state, addrs := api.OK, make([]string, 0, len(ls))
	for _, l := range ls {
		state = worse(state, l.State)
		addrs = append(addrs, l.Addr)
	}
	v.part(state, "listeners", "udp and tcp on "+strings.Join(addrs, ", "))
	for _, l := range ls {
		if l.Error != "" {
			v.more(l.Addr + ": " + l.Error)
		}
	}
}

func queries(v *screen, q *api.Queries) {
	if q.State == "" {
		return
	}
	text := "too early for a rate"
	if r := q.Recent; r.Seconds >= 1 {
		text = fmt.Sprintf("%.1f/s over the last %s", float64(r.Queries)/r.Seconds, span(seconds(r.Seconds)))
		for _, c := range []struct {
			n    uint64
			what string
		}{{r.ServFail, "servfail"}, {r.Shed, "shed"}, {r.Stale, "stale"}} {
			if c.n > 0 {
				text += fmt.Sprintf(", %s %s", c.what, count(c.n))
			}
		}
	}
	v.part(q.State, "queries", facts(text, fmt.Sprintf("in flight %s", count(q.InFlight)), plural(int(q.TCPConns), "tcp connection", "tcp connections")))
	if q.Reason != "" {
		v.more(q.Reason)
	}
	v.more(facts("since start: udp "+count(q.UDP), "tcp "+count(q.TCP), "servfail "+count(q.ServFail), "shed "+count(q.Shed),
		"stale "+count(q.Stale), "malformed "+count(q.Malformed)))
}

func cacheView(v *screen, c *api.Cache) {
	if c.Budget == 0 {
		return
	}
	full := fmt.Sprintf("%s of %s (%.0f %%)", size(c.Bytes), size(c.Budget), 100*float64(c.Bytes)/float64(c.Budget))
	v.part(api.OK, "cache", facts(plural(int(c.Entries), "entry", "entries"), full, "hits "+percent(c.HitRatio), "evicted "+count(c.Evictions)))
}

func upstreamView(v *screen, u *api.Upstream) {
	text := u.Name + prefixed(": ", u.Reason)
	last := ""
	if u.LastResort != "" {
		last = fmt.Sprintf("last resort %s used %s", u.LastResort, plural(int(u.LastUsed), "time", "times"))
	}
	v.part(u.State, "upstream", facts(text, prefixed("from ", u.Source), last))
	rows := make([][]string, 0, len(u.Endpoints))
	for _, e := range u.Endpoints {
		rows = append(rows, []string{e.Addr, e.Transport, e.State, latency(e.LatencySeconds), fmt.Sprintf("%.0f %%", 100*e.Share), count(e.Asked), count(e.Unanswered), e.Reason})
	}
	if len(rows) > 0 {
		v.table([]column{{title: "ENDPOINT"}, {title: "BY"}, {title: "HEALTH", state: true}, {title: "LATENCY", right: true},
			{title: "SHARE", right: true}, {title: "ASKED", right: true}, {title: "UNANSWERED", right: true}, {title: ""}}, rows)
	}
	for _, n := range u.Notes {
		v.more("note: " + n)
	}
}

func zones(v *screen, zs []api.Zone) {
	if len(zs) == 0 {
		return
	}
	state := api.OK
	rows := make([][]string, 0, len(zs))
	for _, z := range zs {
		note := ""
		if !z.FailOpen {
			state, note = api.Warn, "not fail-open: cluster DNS may answer otherwise"
		}
		rows = append(rows, []string{z.Name, z.Upstream, count(z.Hosts), note})
	}
	v.part(state, "zones", plural(len(zs), "zone", "zones")+" beside the root")
	v.table([]column{{title: "ZONE"}, {title: "UPSTREAM"}, {title: "STATIC NAMES", right: true}, {title: ""}}, rows)
}

func configView(v *screen, c *api.ConfigLoad, now time.Time) {
	file := c.File
	if file == "" {
		file = "no file: built-in defaults"
	}
	v.part(c.State, "config", facts(file, "loaded "+span(now.Sub(c.Loaded))+" ago", plural(int(c.Reloads), "reload", "reloads"), count(c.Failures)+" refused"))
	if !c.OK {
		v.more(fmt.Sprintf("refused %s ago, the one before is still in force:", span(now.Sub(c.ErrorAt))))
		for line := range strings.Lines(c.Error) {
			v.more("  " + strings.TrimRight(line, "\n"))
		}
		v.more("remedy: correct it, try it with 'dnslet config check " + c.File + "'; it is read again by itself")
	}
	if len(c.RestartFor) > 0 {
		v.more("waits for a restart: " + strings.Join(c.RestartFor, ", "))
	}
	for _, warning := range c.Warnings {
		v.more("warning: " + warning)
	}
}

func process(v *screen, p *api.Process) {
	mem := ""
	if p.ResidentBytes > 0 {
		mem = size(p.ResidentBytes) + " resident"
	}
	if p.LimitBytes > 0 {
		mem += ", soft limit " + size(p.LimitBytes)
	}
	files := ""
	if p.OpenFiles > 0 {
		files = fmt.Sprintf("%s of %s files", count(p.OpenFiles), count(p.FileLimit))
	}
	v.part(api.OK, "process", facts(mem, plural(p.Goroutines, "goroutine", "goroutines"), files))
}

func conntrack(v *screen, c *api.Conntrack) {
	if c == nil {
		return
	}
	state := api.OK
	if c.Limit > 0 && c.Entries*10 > c.Limit*9 {
		state = api.Warn // the next burst fills it, and then nothing new gets through on this node but what is untracked
	}
	v.part(state, "conntrack", facts(fmt.Sprintf("%s of %s entries on this node", count(c.Entries), count(c.Limit)), "insert_failed "+count(c.InsertFailed),
		"drop "+count(c.Drop), "early_drop "+count(c.EarlyDrop), "clash_resolve "+count(c.ClashResolve)))
	if state == api.Warn {
		v.more("nearly full: new connections of this node will be dropped; raise net.netfilter.nf_conntrack_max")
	}
}

// worse is the worse of two states; skip is no worse than ok.
func worse(a, b string) string {
	rank := map[string]int{api.Fail: 2, api.Warn: 1}
	if rank[b] > rank[a] {
		return b
	}
	return a
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
