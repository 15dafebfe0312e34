package main

import (
	"fmt"
	"strings"
	"time"
)

// summary counts lookups from a moment on: those that were under way then, too.
type summary struct {
	asked, failed, wrong int
	by                   map[string]int
	slowest              time.Duration
	errs                 map[string]int // by client: failed
}

func summarise(lookups map[string][]lookup, from time.Time) summary {
	s := summary{by: map[string]int{}, errs: map[string]int{}}
	for name, ls := range lookups {
		for _, l := range ls {
			if l.at.Add(l.took).Before(from) {
				continue
			}
			s.asked++
			s.by[l.who]++
			if l.err != nil {
				s.failed++
				s.errs[name]++
			} else {
				s.slowest = max(s.slowest, l.took)
			}
			if l.wrong {
				s.wrong++
			}
		}
	}
	return s
}

func (s summary) String() string {
	text := fmt.Sprintf("%d asked, %d by dnslet, %d by cluster DNS, %d failed, %d from a wrong address, slowest %s", s.asked, s.by[byDnslet], s.by[byCluster], s.failed, s.wrong, s.slowest.Round(time.Millisecond))
	var parts []string
	for _, name := range []string{"pod udp", "pod tcp", "node udp", "node tcp"} {
		if n := s.errs[name]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", name, n))
		}
	}
	if len(parts) > 0 {
		text += " (failed: " + strings.Join(parts, ", ") + ")"
	}
	return text
}

func countIf(lookups map[string][]lookup, is func(lookup) bool) (n int) {
	for _, ls := range lookups {
		for _, l := range ls {
			if is(l) {
				n++
			}
		}
	}
	return n
}

// latest and earliest return when the last or first such lookup was asked, or zero.
func latest(lookups map[string][]lookup, is func(lookup) bool) (at time.Time) {
	for _, ls := range lookups {
		for _, l := range ls {
			if is(l) && l.at.After(at) {
				at = l.at
			}
		}
	}
	return at
}

func earliest(lookups map[string][]lookup, is func(lookup) bool) (at time.Time) {
	for _, ls := range lookups {
		for _, l := range ls {
			if is(l) && (at.IsZero() || l.at.Before(at)) {
				at = l.at
			}
		}
	}
	return at
}
