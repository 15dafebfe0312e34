package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// What texts look like. The words are those that Go and the ECMA-262 of JSON Schema have in common.
var (
	durationText  = regexp.MustCompile(`^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+$`)
	sizeText      = regexp.MustCompile(`^[0-9]+(KiB|MiB|GiB)$`)
	addressText   = regexp.MustCompile(`^[0-9A-Fa-f:.]+$`)
	addrPortText  = regexp.MustCompile(`^[0-9A-Fa-f:.\[\]]+(%[^\s\]]+(\]:[0-9]+)?)?$`)
	prefixText    = regexp.MustCompile(`^[0-9A-Fa-f:.]+(/[0-9]+)?$`)
	pathText      = regexp.MustCompile(`^/`)
	interfaceText = regexp.MustCompile(`^[^\s/:]{1,15}$`)
	domainText    = regexp.MustCompile(`^(\.|[0-9A-Za-z_-]{1,63}(\.[0-9A-Za-z_-]{1,63})*\.?)$`)
	// No dots: the name of a group is one step of a key's path.
	groupText = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// scalar is a single word or number.
type scalar[V any] struct {
	name     string         // what it is called in messages and in the reference: "duration"
	json     string         // its JSON type: string, integer or boolean
	pattern  *regexp.Regexp // what its text looks like, in the schema and here; nil for none
	enum     []string       // the only words allowed
	min, max int64          // of an integer
	bounds   string         // of a text that stands for a number, for people: "1s to 5m"
	optional bool           // may be none, which is written by leaving the key out and formatted as ""
	parse    func(text string) (V, error)
	format   func(V) string
}

func (s scalar[V]) orNone() scalar[V] { s.optional = true; return s }

// advice is an error of a scalar's parse that knows what to write instead.
type advice struct{ reason, suggestion string }

func (a advice) Error() string { return a.reason }

var tags = map[string]string{"string": "!!str", "integer": "!!int", "boolean": "!!bool"}

func (s scalar[V]) decode(d *decoder, n *yaml.Node, path string, into *V) {
	if n.Kind != yaml.ScalarNode {
		d.fail(n, path, fmt.Sprintf("must be %s, not %s", s.name, kindOf(n)), "")
		return
	}
	if n.ShortTag() != tags[s.json] && !d.isSet(n) {
		d.fail(n, path, fmt.Sprintf("must be %s, not %s", s.name, kindOf(n)), s.tagHint(n))
		return
	}
	v, err := s.read(n.Value)
	if err != nil {
		var a advice
		errors.As(err, &a)
		d.fail(n, path, a.reason, a.suggestion)
		return
	}
	*into = v
}

// read checks the text against what the schema says of it, then parses it.
func (s scalar[V]) read(text string) (v V, err error) {
	if len(s.enum) > 0 {
		known := false
		for _, w := range s.enum {
			known = known || w == text
		}
		if !known {
			hint := "use one of " + strings.Join(s.enum, ", ")
			if w := nearest(text, s.enum); w != "" {
				hint = fmt.Sprintf("did you mean %q?", w)
			}
			return v, advice{fmt.Sprintf("%q is not known", text), hint}
		}
	}
	v, err = s.parse(text)
	if err == nil && s.pattern != nil && !s.pattern.MatchString(text) {
		err = advice{fmt.Sprintf("%q is not %s", text, s.name), ""}
	}
	return v, err
}

// tagHint says how to write what n seems to mean.
func (s scalar[V]) tagHint(n *yaml.Node) string {
	switch {
	case s.json == "string" && s.name == aDuration:
		return fmt.Sprintf("add a unit: %ss", n.Value)
	case s.json == "string" && s.name == aSize:
		return "add a unit: 32MiB"
	case s.json == "string" && len(s.enum) > 0 && n.ShortTag() == "!!bool":
		return "use one of " + strings.Join(s.enum, ", ")
	case s.json == "string":
		return fmt.Sprintf("put it in quotes: %q", n.Value)
	case n.ShortTag() == "!!str" && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0:
		return "remove the quotes"
	case s.json == "boolean":
		return "use true or false"
	}
	return ""
}

func (s scalar[V]) encode(v *V) *yaml.Node {
	t := s.format(*v)
	if t == "" && s.optional {
		return nil
	}
	return scalarNode(tags[s.json], t)
}

func (s scalar[V]) schema(def *V) map[string]any {
	m := map[string]any{"type": s.json}
	if s.pattern != nil {
		m["pattern"] = s.pattern.String()
	}
	if s.enum != nil {
		m["enum"] = s.enum
	}
	if s.json == "integer" {
		m["minimum"], m["maximum"] = s.min, s.max
	}
	if s.json == "string" && s.enum == nil {
		m["x-type"] = s.name
	}
	if s.bounds != "" {
		m["x-range"] = s.bounds
	}
	if def != nil {
		if n := s.encode(def); n != nil {
			m["default"] = plain(n)
		}
	}
	return m
}

func (s scalar[V]) check(v *V, path string, errs *Errors) {
	t := s.format(*v)
	if t == "" && s.optional {
		return
	}
	_, err := s.read(t)
	if a := (advice{}); errors.As(err, &a) {
		*errs = append(*errs, Problem{Path: path, Reason: a.reason, Suggestion: a.suggestion})
	}
}

func (s scalar[V]) diff(a, b *V, path string, restart bool, out *[]Change) {
	diffText(s.format(*a), s.format(*b), path, restart, out)
}

const (
	aDuration = "a duration"
	aSize     = "a size"
)

func boolean() scalar[bool] {
	return scalar[bool]{
		name: "true or false", json: "boolean",
		parse: func(t string) (bool, error) {
			if t != "true" && t != "false" {
				return false, advice{fmt.Sprintf("%q is neither true nor false", t), ""}
			}
			return t == "true", nil
		},
		format: strconv.FormatBool,
	}
}

// integer is a whole number from lo to hi, decimal or 0x hexadecimal, written back by format's verb.
func integer[V int | uint32](lo, hi int64, verb string) scalar[V] {
	return scalar[V]{
		name: "a whole number", json: "integer", min: lo, max: hi,
		parse: func(t string) (V, error) {
			i, err := strconv.ParseInt(t, 0, 64)
			if err != nil || len(t) > 1 && t[0] == '0' && t[1] != 'x' || strings.Contains(t, "_") {
				return 0, advice{fmt.Sprintf("%q is no whole number", t), "write it in decimal, or in hexadecimal as 0x53"}
			}
			if i < lo || i > hi {
				return 0, advice{fmt.Sprintf("%s is out of range", t), fmt.Sprintf("use %d to %d", lo, hi)}
			}
			return V(i), nil
		},
		format: func(v V) string { return fmt.Sprintf(verb, v) },
	}
}

// duration is a Go duration from lo to hi, a multiple of step.
func duration(lo, hi, step time.Duration) scalar[time.Duration] {
	bounds := formatDuration(lo) + " to " + formatDuration(hi)
	return scalar[time.Duration]{
		name: aDuration, json: "string", bounds: bounds, pattern: durationText,
		parse: func(t string) (time.Duration, error) {
			v, err := time.ParseDuration(t)
			switch {
			case err != nil:
				hint := "write it as 500ms, 5s or 1h30m"
				if _, err := strconv.ParseFloat(t, 64); err == nil {
					hint = fmt.Sprintf("add a unit: %ss", t)
				}
				return 0, advice{fmt.Sprintf("%q is no duration", t), hint}
			case v < lo || v > hi:
				return 0, advice{t + " is out of range", "use " + bounds}
			case v%step != 0:
				return 0, advice{t + " is no multiple of " + formatDuration(step), "use " + formatDuration(max(lo, v.Round(step)))}
			}
			return v, nil
		},
		format: formatDuration,
	}
}

// formatDuration writes 1h instead of 1h0m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

var sizeUnits = []struct {
	name  string
	shift uint
}{{"GiB", 30}, {"MiB", 20}, {"KiB", 10}}

// size is a number of bytes from lo to hi, written in binary units.
func size(lo, hi int64) scalar[int64] {
	bounds := formatSize(lo) + " to " + formatSize(hi)
	return scalar[int64]{
		name: aSize, json: "string", bounds: bounds, pattern: sizeText,
		parse: func(t string) (int64, error) {
			for _, u := range sizeUnits {
				num, ok := strings.CutSuffix(t, u.name)
				if !ok {
					continue
				}
				n, err := strconv.ParseUint(num, 10, 64)
				if err != nil {
					break
				}
				if n > math.MaxInt64>>u.shift || int64(n)<<u.shift < lo || int64(n)<<u.shift > hi {
					return 0, advice{t + " is out of range", "use " + bounds}
				}
				return int64(n) << u.shift, nil
			}
			hint := "write it as 32MiB"
			digits := strings.TrimRight(t, "kKmMgGiIbB ")
			if n, err := strconv.ParseUint(digits, 10, 32); err == nil && len(digits) < len(t) {
				hint = fmt.Sprintf("did you mean %d%siB?", n, strings.ToUpper(t[len(digits):][:1]))
			}
			return 0, advice{fmt.Sprintf("%q is no size", t), hint}
		},
		format: formatSize,
	}
}

func formatSize(n int64) string {
	for _, u := range sizeUnits {
		if n != 0 && n%(1<<u.shift) == 0 {
			return strconv.FormatInt(n>>u.shift, 10) + u.name
		}
	}
	return strconv.FormatInt(n/1024, 10) + "KiB"
}

// word is one of a closed set.
func word[V ~string](words ...V) scalar[V] {
	s := scalar[V]{
		name: "a word", json: "string",
		parse:  func(t string) (V, error) { return V(t), nil },
		format: func(v V) string { return string(v) },
	}
	for _, w := range words {
		s.enum = append(s.enum, string(w))
	}
	return s
}

func logLevel() scalar[slog.Level] {
	levels := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}
	return scalar[slog.Level]{
		name: "a word", json: "string", enum: []string{"debug", "info", "warn", "error"},
		parse:  func(t string) (slog.Level, error) { return levels[t], nil },
		format: func(l slog.Level) string { return strings.ToLower(l.String()) },
	}
}

// address is an IP address without a scope.
func address() scalar[netip.Addr] {
	return scalar[netip.Addr]{
		name: "an IP address", json: "string", pattern: addressText,
		parse: func(t string) (netip.Addr, error) {
			a, err := netip.ParseAddr(t)
			if err != nil || a.Zone() != "" {
				return a, advice{fmt.Sprintf("%q is no IP address", t), addressHint(t)}
			}
			return a, unmapped(a)
		},
		format: netip.Addr.String,
	}
}

// addrPort is IP:PORT; with a default port, IP alone as well. Port 0 is refused unless anyPort.
func addrPort(defaultPort uint16, anyPort bool) scalar[netip.AddrPort] {
	what := "IP:PORT"
	if defaultPort != 0 {
		what = "IP or IP:PORT"
	}
	return scalar[netip.AddrPort]{
		name: "an address (" + what + ")", json: "string", pattern: addrPortText,
		parse: func(t string) (netip.AddrPort, error) {
			ap, err := netip.ParseAddrPort(t)
			if a, aerr := netip.ParseAddr(t); err != nil && aerr == nil {
				if defaultPort == 0 {
					hint := addressHint(t)
					if hint == "" {
						hint = "write " + netip.AddrPortFrom(a, DNSPort).String()
					}
					return ap, advice{fmt.Sprintf("%q has no port", t), hint}
				}
				ap, err = netip.AddrPortFrom(a, defaultPort), nil
			}
			if err != nil {
				return ap, advice{fmt.Sprintf("%q is not %s", t, what), addressHint(t)}
			}
			if ap.Port() == 0 && !anyPort {
				return ap, advice{"port 0 is no port to ask", "write " + netip.AddrPortFrom(ap.Addr(), DNSPort).String()}
			}
			return ap, unmapped(ap.Addr())
		},
		format: func(ap netip.AddrPort) string {
			if !ap.IsValid() {
				return "" // none: written by leaving the key out
			}
			return ap.String()
		},
	}
}

// unmapped refuses ::ffff:10.0.0.1: it is IPv4 to the kernel's sockets and IPv6 to its packet rules.
func unmapped(a netip.Addr) error {
	if a.Is4In6() {
		return advice{fmt.Sprintf("%s is an IPv4 address written as IPv6", a), "write " + a.Unmap().String()}
	}
	return nil
}

// addressHint tells apart the two usual mistakes: a host name, and an IPv6 address with a port but no brackets.
func addressHint(t string) string {
	if i := strings.LastIndexByte(t, ':'); i > 0 && strings.Count(t, ":") > 1 {
		if a, err := netip.ParseAddr(t[:i]); err == nil {
			return fmt.Sprintf("write [%s]:%s", a, t[i+1:])
		}
	}
	if strings.ContainsAny(t, "ghijklmnopqrstuvwxyzGHIJKLMNOPQRSTUVWXYZ") {
		return "host names are not resolved here: write the IP address"
	}
	return ""
}

// prefix is a block of addresses; one address alone is a block, too, where single is set.
func prefix(single bool) scalar[netip.Prefix] {
	return scalar[netip.Prefix]{
		name: "a block of addresses", json: "string", pattern: prefixText,
		parse: func(t string) (netip.Prefix, error) {
			if a, err := netip.ParseAddr(t); err == nil && a.Zone() == "" && single {
				return netip.PrefixFrom(a, a.BitLen()), unmapped(a)
			}
			p, err := netip.ParsePrefix(t)
			if err != nil {
				return p, advice{fmt.Sprintf("%q is no block of addresses", t), "write it as 10.0.0.0/8 or fd00::/8"}
			}
			if p != p.Masked() {
				return p, advice{t + " has bits set behind its length", "write " + p.Masked().String()}
			}
			return p, unmapped(p.Addr())
		},
		format: netip.Prefix.String,
	}
}

func absolutePath() scalar[string] {
	return scalar[string]{
		name: "an absolute path", json: "string", pattern: pathText,
		parse: func(t string) (string, error) {
			if !strings.HasPrefix(t, "/") || strings.ContainsRune(t, 0) {
				return "", advice{fmt.Sprintf("%q is no absolute path", t), "start it with /"}
			}
			return path.Clean(t), nil
		},
		format: func(s string) string { return s },
	}
}

// interfaceName is what Linux allows: dev_valid_name in net/core/dev.c, 15 bytes.
func interfaceName() scalar[string] {
	return scalar[string]{
		name: "the name of an interface", json: "string", pattern: interfaceText,
		parse: func(t string) (string, error) {
			if len(t) > 15 || t == "." || t == ".." {
				return "", advice{fmt.Sprintf("%q is no name for an interface", t), "Linux allows up to 15 bytes, without space, / and :"}
			}
			return t, nil
		},
		format: func(s string) string { return s },
	}
}

// domain is an absolute domain name of letters, digits, hyphens and underscores. It is kept folded and with the dot.
func domain() scalar[string] {
	return scalar[string]{
		name: "a domain name", json: "string", pattern: domainText,
		parse: func(t string) (string, error) {
			name := strings.ToLower(strings.TrimSuffix(t, ".")) + "."
			// RFC 1035 section 2.3.4: 255 bytes on the wire, which are the text with its last dot and one more.
			if len(name) > 254 {
				return "", advice{"the name is longer than 255 bytes", ""}
			}
			if rest, ok := strings.CutPrefix(t, "*."); ok {
				return "", advice{fmt.Sprintf("%q: a zone holds all names below it, wildcards are not supported", t), "write " + rest}
			}
			return name, nil
		},
		format: func(s string) string { return s },
	}
}

// groupName names an upstream group.
func groupName() scalar[string] {
	return scalar[string]{
		name: "the name of a group", json: "string", pattern: groupText,
		parse:  func(t string) (string, error) { return t, nil },
		format: func(s string) string { return s },
	}
}
