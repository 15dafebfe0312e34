package lab

import (
	"fmt"
	"html"
	"math"
	"strings"
	"time"
)

// The measures of the picture, in pixels; its bins, per decade of time.
const (
	picWidth, picHeight = 880, 486
	plotLeft, plotRight = 64, 24
	firstPanel          = 114
	panelHeight         = 128
	panelGap            = 56

	binsPerDecade = 12
	binsBelow     = 57 // of stubTimer, which is a border between two bins
	binsAbove     = 7
)

// stubTimer is the resolver's timeout that the incident makes run out.
const stubTimer = 5 * time.Second

// style has the colours for light and dark; the picture follows the reader's setting, also inside an <img>.
const style = `
svg{font:13px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif}
.bg{fill:#fff}.ink{fill:#1f2328}.dim{fill:#59636e}.grid{stroke:#d8dee4}.axis{stroke:#8c959f}
.bad{fill:#cf222e;fill-opacity:.07}.p0{fill:#d4640f}.p1{fill:#0a7ea4}.m0{stroke:#d4640f}.m1{stroke:#0a7ea4}
.title{font-size:17px;font-weight:600}.name{font-size:14px;font-weight:600}.small{font-size:12px}
@media(prefers-color-scheme:dark){
.bg{fill:#0d1117}.ink{fill:#e6edf3}.dim{fill:#9198a1}.grid{stroke:#2a313c}.axis{stroke:#656c76}
.bad{fill:#ff7b72;fill-opacity:.10}.p0{fill:#f0883e}.p1{fill:#39c5e6}.m0{stroke:#f0883e}.m1{stroke:#39c5e6}}
`

// picture draws how long lookups took on the two paths: a histogram each, over one logarithmic axis. It shows the incident if
// that was played, else whatever was. Without a scenario of two paths it says so.
func picture(r *Report) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`,
		picWidth, picHeight, picWidth, picHeight)
	fmt.Fprintf(&b, "\n<style>%s</style>\n", style)
	fmt.Fprintf(&b, `<rect class="bg" width="%d" height="%d" rx="6"/>`+"\n", picWidth, picHeight)
	paths := pictured(r)
	if len(paths) == 0 {
		text(&b, plotLeft, 40, "ink title", "start", "No scenario of two paths was played.")
	} else {
		head(&b, r, paths[0].Scenario)
		highest := 0.0 // share of the tallest bar: both panels have one scale
		for _, p := range paths {
			_, most := bins(p.took)
			highest = max(highest, float64(most)/float64(max(p.Lookups, 1)))
		}
		for i, p := range paths {
			panel(&b, i, p, highest)
		}
		axis(&b, len(paths))
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}

func pictured(r *Report) []Path {
	var paths []Path
	for _, p := range r.Paths {
		if len(paths) > 0 && paths[0].Scenario != p.Scenario {
			paths = nil // the last scenario is the incident
		}
		paths = append(paths, p)
	}
	return paths
}

func head(b *strings.Builder, r *Report, scenario string) {
	title, about := "How long pods wait for a name", "a quiet cluster"
	if scenario == "race-slow" {
		title, about = title+" during the incident", "packets of a pair held together, external names take 1.5 s"
	}
	text(b, plotLeft, 34, "ink title", "start", title)
	text(b, plotLeft, 56, "dim small", "start", fmt.Sprintf("%s; caches cold at the start", about))
	text(b, plotLeft, 74, "dim small", "start", fmt.Sprintf("%d pods, %d cluster DNS endpoints, %d lookups/s; Linux %s",
		r.Pods, r.Endpoints, r.Rate, r.Kernel))
}

// x is where a time is on the axis.
func x(d time.Duration) float64 {
	bin := binsBelow + binsPerDecade*math.Log10(float64(max(d, 1))/float64(stubTimer))
	return plotLeft + (picWidth-plotLeft-plotRight)*min(max(bin/(binsBelow+binsAbove), 0), 1)
}

// bins counts times by their bins, those outside the axis in the outermost ones, and returns the counts and the largest.
func bins(took []time.Duration) (counts []int, most int) {
	counts = make([]int, binsBelow+binsAbove)
	for _, d := range took {
		i := binsBelow + int(math.Floor(binsPerDecade*math.Log10(float64(max(d, 1))/float64(stubTimer))))
		i = min(max(i, 0), len(counts)-1)
		counts[i]++
		most = max(most, counts[i])
	}
	return counts, most
}

func binStart(i int) time.Duration {
	return time.Duration(float64(stubTimer) * math.Pow(10, float64(i-binsBelow)/binsPerDecade))
}

// panel draws the histogram of one path; a bar of the share highest is as tall as the panel allows.
func panel(b *strings.Builder, n int, p Path, highest float64) {
	const room = 12 // above the tallest bar
	top := float64(firstPanel + n*(panelHeight+panelGap))
	base := top + panelHeight
	right := float64(picWidth - plotRight)
	stall := x(stubTimer)
	fmt.Fprintf(b, `<rect class="bad" x="%.1f" y="%.1f" width="%.1f" height="%d"/>`+"\n", stall, top, right-stall, panelHeight)
	counts, _ := bins(p.took)
	for i, c := range counts {
		if c == 0 {
			continue
		}
		from, to := x(binStart(i)), x(binStart(i+1))
		// One lookup alone is still to be seen.
		height := max(1.5, float64(c)/float64(p.Lookups)/highest*(panelHeight-room))
		fmt.Fprintf(b, `<rect class="p%d" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%d lookups of %s to %s</title></rect>`+"\n",
			n, from+0.5, base-height, to-from-1, height, c, seconds(binStart(i).Seconds()), seconds(binStart(i+1).Seconds()))
	}
	name := map[string]string{ThroughKubeProxy: "through kube-proxy", WithAgent: "with dnslet on the node"}[p.Path]
	text(b, plotLeft, top-10, fmt.Sprintf("p%d name", n), "start", name)
	text(b, plotLeft+200, top-10, "dim small", "start", fmt.Sprintf("%d lookups, p50 %s, p99 %s, max %s; %d new conntrack entries",
		p.Lookups, seconds(p.P50), seconds(p.P99), seconds(p.Max), p.NewEntries))
	text(b, right-6, top+20, "ink name", "end", fmt.Sprint(p.Stalled))
	text(b, right-6, top+36, "ink small", "end", "stalled 5 s")
	text(b, plotLeft-8, top+room+4, "dim small", "end", percent(highest))
	text(b, plotLeft-8, base, "dim small", "end", "0")
	fmt.Fprintf(b, `<line class="axis" x1="%d" x2="%.1f" y1="%.1f" y2="%.1f"/>`+"\n", plotLeft, right, base, base)
}

func axis(b *strings.Builder, panels int) {
	bottom := float64(firstPanel + panels*(panelHeight+panelGap) - panelGap)
	for _, tick := range []struct {
		at   time.Duration
		name string
	}{
		{100 * time.Microsecond, "100 us"}, {time.Millisecond, "1 ms"}, {10 * time.Millisecond, "10 ms"},
		{100 * time.Millisecond, "100 ms"}, {time.Second, "1 s"}, {stubTimer, "5 s"},
	} {
		d := tick.at
		for n := range panels {
			base := float64(firstPanel + n*(panelHeight+panelGap) + panelHeight)
			fmt.Fprintf(b, `<line class="axis" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`+"\n", x(d), x(d), base, base+5)
		}
		text(b, x(d), bottom+20, "dim small", "middle", tick.name)
	}
	text(b, (plotLeft+picWidth-plotRight)/2, bottom+40, "dim small", "middle", "time from the program's call to its answer, logarithmic; bars: share of lookups (12 per decade)")
}

func text(b *strings.Builder, x, y float64, class, anchor, s string) {
	fmt.Fprintf(b, `<text class="%s" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", class, x, y, anchor, html.EscapeString(s))
}
