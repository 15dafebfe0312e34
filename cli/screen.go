package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// screen collects lines of the shape
//
//	ok    upstream       default: 3 of 3 endpoints healthy
//	                     detail
//
// Everything that is put on it is escaped here, so no caller can forget to.
type screen struct {
	b strings.Builder
	p paint
}

const (
	stateWidth = 6
	nameWidth  = 14
)

// part begins a part of the screen: its state, its name, and what there is to say first.
func (s *screen) part(state, name, text string) {
	s.b.WriteString(s.p.state(state, pad(escape(state), stateWidth)))
	name = escape(name)
	if utf8.RuneCountInString(name) > nameWidth-2 {
		name += "  "
	}
	s.b.WriteString(pad(name, nameWidth))
	s.b.WriteString(escape(text))
	s.b.WriteByte('\n')
}

// more adds a line to the part begun last.
func (s *screen) more(text string) {
	s.b.WriteString(strings.Repeat(" ", stateWidth+nameWidth))
	s.b.WriteString(escape(text))
	s.b.WriteByte('\n')
}

// column is one column of a table; a state column is painted by the word in it.
type column struct {
	title string
	right bool
	state bool
}

// table adds rows to the part begun last, aligned. The last column is not padded.
func (s *screen) table(cols []column, rows [][]string) {
	width := make([]int, len(cols))
	for i, c := range cols {
		width[i] = utf8.RuneCountInString(c.title)
	}
	for _, row := range rows {
		for i := range row {
			row[i] = escape(row[i])
			width[i] = max(width[i], utf8.RuneCountInString(row[i]))
		}
	}
	line := func(cells []string, header bool) {
		var b strings.Builder
		for i, cell := range cells {
			text := pad(cell, width[i])
			switch {
			case cols[i].right:
				text = strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)) + cell
			case i == len(cells)-1:
				text = cell
			}
			if cols[i].state && !header {
				text = s.p.state(cell, text)
			}
			if i > 0 {
				b.WriteString("  ")
			}
			b.WriteString(text)
		}
		s.b.WriteString(strings.Repeat(" ", stateWidth+nameWidth))
		s.b.WriteString(strings.TrimRight(b.String(), " "))
		s.b.WriteByte('\n')
	}
	titles := make([]string, len(cols))
	for i, c := range cols {
		titles[i] = c.title
	}
	line(titles, true)
	for _, row := range rows {
		line(row, false)
	}
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

// facts joins what there is to say, three spaces apart, leaving out what is empty.
func facts(parts ...string) string {
	var kept []string
	for _, p := range parts {
		if p != "" {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, "   ")
}

// count writes n with a comma between thousands.
func count[N ~int | ~int64 | ~uint64](n N) string {
	digits := strconv.FormatInt(int64(n), 10)
	sign := ""
	if digits[0] == '-' {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// size writes bytes in the unit that leaves one to four digits.
func size(n int64) string {
	switch {
	case n < 1<<10:
		return strconv.FormatInt(n, 10) + " B"
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// span writes a duration in its two largest units.
func span(d time.Duration) string {
	d = max(0, d)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// latency writes seconds as milliseconds with as many digits as matter.
func latency(seconds float64) string {
	ms := seconds * 1000
	switch {
	case seconds <= 0:
		return "-"
	case ms < 10:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

func percent(part float64) string {
	if part > 0 && part < 0.001 {
		return "<0.1 %"
	}
	return fmt.Sprintf("%.1f %%", 100*part)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}
