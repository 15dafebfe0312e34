package cli

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commands are all commands that are ours: cobra adds help and completion.
func commands(c *cobra.Command) []*cobra.Command {
	out := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		if sub.Name() != "help" && sub.Name() != "completion" {
			out = append(out, commands(sub)...)
		}
	}
	return out
}

// examples are the command lines of the Example part of a help text, each as the words of one call of dnslet.
func examples(long string) [][]string {
	_, part, _ := strings.Cut(long, "\nExample:\n")
	var out [][]string
	for line := range strings.Lines(part) {
		for call := range strings.SplitSeq(line, "|") {
			call, _, _ = strings.Cut(call, " > ")
			words := strings.Fields(call)
			if len(words) > 0 && words[0] == "dnslet" {
				out = append(out, words)
			}
		}
	}
	return out
}

// Red when: a command has no Short or no example, a line ends with a space, or a flag has no words.
func TestHelpTexts(t *testing.T) {
	for _, c := range commands(newRoot("dnslet")) {
		path := c.CommandPath()
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || len(c.Short) > 70 || c.Short[:1] != strings.ToUpper(c.Short[:1]) {
			t.Errorf("%s: Short is not one phrase of at most 70 letters, with a capital and without a full stop: %q", path, c.Short)
		}
		if c.Long == "" || strings.HasPrefix(c.Long, "\n") || strings.HasSuffix(c.Long, "\n") {
			t.Errorf("%s: Long is missing, or begins or ends with an empty line", path)
		}
		for i, line := range strings.Split(c.Long, "\n") {
			if strings.TrimRight(line, " \t") != line || strings.Contains(line, "\t") || len([]rune(line)) > 115 {
				t.Errorf("%s: line %d of Long has tabs, spaces at its end, or more than 115 letters: %q", path, i+1, line)
			}
		}
		if len(examples(c.Long)) == 0 {
			t.Errorf("%s: Long has no example", path)
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || strings.HasSuffix(f.Usage, ".") || f.Usage[:1] == strings.ToUpper(f.Usage[:1]) && strings.ToUpper(f.Usage[:2]) != f.Usage[:2] {
				t.Errorf("%s --%s: usage is not one phrase without a capital and a full stop: %q", path, f.Name, f.Usage)
			}
		})
	}
}

// Red when: an example names a command, a flag or a number of arguments that there is not, or one of another command only.
func TestExamplesParse(t *testing.T) {
	seen := 0
	for _, c := range commands(newRoot("dnslet")) {
		for _, words := range examples(c.Long) {
			seen++
			root := newRoot("dnslet")
			called, rest, err := root.Find(words[1:])
			if err != nil {
				t.Errorf("%s: example %q: %v", c.CommandPath(), words, err)
				continue
			}
			if !strings.HasPrefix(called.CommandPath(), c.CommandPath()) {
				t.Errorf("%s: example %q is of %s", c.CommandPath(), words, called.CommandPath())
			}
			if err := called.ParseFlags(rest); err != nil {
				t.Errorf("%s: example %q: %v", c.CommandPath(), words, err)
				continue
			}
			if err := called.ValidateArgs(called.Flags().Args()); err != nil {
				t.Errorf("%s: example %q: %v", c.CommandPath(), words, err)
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d examples found: the test reads the wrong part", seen)
	}
}

// Red when: newRoot ignores argv[0].
func TestPluginIsCalledByItsName(t *testing.T) {
	for program, want := range map[string]string{"/usr/local/bin/kubectl-dnslet": "kubectl dnslet status", "dnslet": "dnslet status"} {
		root := newRoot(program)
		c, _, err := root.Find([]string{"status"})
		if err != nil || c.CommandPath() != want {
			t.Errorf("as %s the command is called %q (%v), want %q", program, c.CommandPath(), err, want)
		}
	}
}
