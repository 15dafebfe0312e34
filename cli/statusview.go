package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
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
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	v.part(s.State, s.Host, text)
	v.more(facts("dnslet "+s.Version, fmt.Sprintf("pid %d", s.PID), "up "+span(seconds(s.UptimeSeconds)), prefixed("kernel ", s.Kernel)))
	for _, c := range s.Checks {
		if !c.OK {
			v.more("not ready: " + c.Name + ": " + c.Reason)
		}
	}
	v.b.WriteByte('\n')
}

func interception(v *screen, i *api.Interception) {
	text := "mode " + i.Mode
	switch {
	case i.Installed && i.Owned:
		text = "installed, the table falls with the agent (mode " + i.Mode + ")"
	case i.Installed:
		text = "installed, the table is not owned: the socket match and the heartbeat guard it (mode " + i.Mode + ")"
	}
	if i.Reason != "" {
		text += ": " + i.Reason
	}
	v.part(i.State, "interception", text)
	for _, vip := range i.VIPs {
		v.more(fmt.Sprintf("%s -> %s   udp %s   tcp %s", vip.VIP, vip.Listener, alive(vip.UDP), alive(vip.TCP)))
	}
	if len(i.Packets) > 0 {
		parts := []string{"packets:"}
		for _, k := range slices.Sorted(maps.Keys(i.Packets)) {
			parts = append(parts, k+" "+count(i.Packets[k]))
		}
		v.more(facts(parts...))
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

func alive(ok bool) string {
	if ok {
		return api.OK
	}
	return api.Fail + " (to cluster DNS)"
}

func listeners(v *screen, ls []api.Listener) {
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
	full := ""
	if c.Budget > 0 {
		full = fmt.Sprintf("%s of %s (%.0f %%)", size(c.Bytes), size(c.Budget), 100*float64(c.Bytes)/float64(c.Budget))
	}
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
		rows = append(rows, []string{e.Addr, e.Transport, e.State, latency(e.LatencySeconds), fmt.Sprintf("%.0f %%", 100*e.Share), count(e.Asked), count(e.Lost), e.Reason})
	}
	if len(rows) > 0 {
		v.table([]column{{title: "ENDPOINT"}, {title: "BY"}, {title: "HEALTH", state: true}, {title: "LATENCY", right: true},
			{title: "SHARE", right: true}, {title: "ASKED", right: true}, {title: "LOST", right: true}, {title: ""}}, rows)
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
	var lines []string
	for _, z := range zs {
		to := "upstream " + z.Upstream
		if z.Hosts > 0 {
			to += ", " + plural(z.Hosts, "static name", "static names")
		}
		if !z.FailOpen {
			state = api.Warn
			to += "   not fail-open: cluster DNS answers otherwise while dnslet is away"
		}
		lines = append(lines, z.Name+"   "+to)
	}
	v.part(state, "zones", lines[0])
	for _, l := range lines[1:] {
		v.more(l)
	}
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
