package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dnslet/dnslet/api"
)

// escape makes text from elsewhere harmless on a terminal: whatever is not printable (control characters, escape
// sequences, bidirectional overrides, bytes that are no UTF-8) is shown as an escape, everything else as it is.
func escape(s string) string {
	clean := true
	for _, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n <= 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u{%x}`, r)
		}
		i += n
	}
	return b.String()
}

// paint puts the colour of a state word around text, where the output wants colour. The word itself is always there:
// colour only repeats what it says.
type paint bool

// paintFor decides by where the output goes and by NO_COLOR (no-color.org: any value that is not empty).
func paintFor(w io.Writer) paint {
	f, ok := w.(*os.File)
	return paint(ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(f))
}

func (p paint) state(state, text string) string {
	if !p {
		return text
	}
	switch state {
	case api.OK:
		return "\x1b[32m" + text + "\x1b[0m"
	case api.Warn:
		return "\x1b[33m" + text + "\x1b[0m"
	case api.Fail:
		return "\x1b[1;31m" + text + "\x1b[0m"
	}
	return "\x1b[2m" + text + "\x1b[0m"
}

// outputFlag checks the value of -o.
func outputFlag(value string, allowed ...string) error {
	for _, a := range allowed {
		if value == a {
			return nil
		}
	}
	return usageError(fmt.Errorf("cannot print as %q: want %s", value, strings.Join(allowed, " or ")))
}
