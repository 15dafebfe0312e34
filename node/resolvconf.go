package node

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// The bounds of glibc's resolver (resolv.h, resolv.conf(5)). They are kept here so that nobody is asked who would not be
// asked without us.
const (
	MaxNameservers = 3
	maxNdots       = 15
	maxTimeout     = 30 * time.Second
	maxAttempts    = 5
	maxResolvConf  = 1 << 20 // bytes read; real files are below 1 KiB
)

// ResolvConf is what a resolv.conf says, with glibc's defaults for what it does not say.
type ResolvConf struct {
	// Nameservers are in the order of the file, at most MaxNameservers. None is none: the C library's way out,
	// asking this machine, is not taken. A link-local IPv6 address has its scope as its zone.
	Nameservers []netip.Addr
	Search      []string // as written; a later search or domain line replaces an earlier one
	Ndots       int
	Timeout     time.Duration // of one attempt
	Attempts    int
	Options     []string // all option words, known or not, in order
	// Ignored are the lines that say nothing to us and are no comments, as "line 3: not an address: nameserver foo".
	Ignored []string
}

// ReadResolvConf reads a file.
func ReadResolvConf(path string) (ResolvConf, error) {
	f, err := os.Open(path)
	if err != nil {
		return ResolvConf{}, fmt.Errorf("cannot read resolv.conf: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxResolvConf))
	if err != nil {
		return ResolvConf{}, fmt.Errorf("cannot read resolv.conf: %w", err)
	}
	return ParseResolvConf(string(b)), nil
}

// ParseResolvConf reads text as glibc does: no line is an error, those that make no sense are passed over.
func ParseResolvConf(text string) ResolvConf {
	c := ResolvConf{Ndots: 1, Timeout: 5 * time.Second, Attempts: 2}
	number := 0
	for line := range strings.Lines(text) {
		number++
		f := strings.Fields(line)
		if len(f) == 0 || f[0][0] == '#' || f[0][0] == ';' {
			continue
		}
		if why := c.line(f); why != "" {
			c.Ignored = append(c.Ignored, fmt.Sprintf("line %d: %s: %s", number, why, strings.Join(f, " ")))
		}
	}
	return c
}

// line takes one line, or says why it is ignored. Words after an address are a comment to glibc.
func (c *ResolvConf) line(f []string) string {
	keyword, args := f[0], f[1:]
	switch keyword {
	case "nameserver":
		if len(args) == 0 {
			return "no address"
		}
		a, err := netip.ParseAddr(args[0])
		if err != nil {
			return "not an address"
		}
		if len(c.Nameservers) == MaxNameservers {
			return fmt.Sprintf("more than %d nameservers", MaxNameservers)
		}
		c.Nameservers = append(c.Nameservers, a.Unmap())
	case "domain":
		if len(args) == 0 {
			return "no name"
		}
		c.Search = args[:1:1]
	case "search":
		c.Search = args
	case "options":
		for _, o := range args {
			c.option(o)
		}
	case "sortlist", "lookup", "family":
		// glibc's own sorting of answers, and words of other systems: nothing to a forwarder.
	default:
		return "unknown keyword"
	}
	return ""
}

// option takes one word of an options line. Values out of range are cut to it, as in glibc.
func (c *ResolvConf) option(word string) {
	c.Options = append(c.Options, word)
	name, value, ok := strings.Cut(word, ":")
	if !ok {
		return
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 {
		return
	}
	switch name {
	case "ndots":
		c.Ndots = min(n, maxNdots)
	case "timeout":
		c.Timeout = min(time.Duration(min(n, 60))*time.Second, maxTimeout)
	case "attempts":
		c.Attempts = min(n, maxAttempts)
	}
}
