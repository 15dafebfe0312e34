// Package cli is the dnslet command line: one file and one test per command.
//
// Conventions, the same for every command: stdout is the answer and nothing else; progress, warnings and errors go to
// stderr; every mark has a word beside it; colour only on a terminal and without NO_COLOR; text that came from the
// network or another process is escaped before it is printed. The exit code is one of ExitOK, ExitFindings, ExitUsage
// and ExitUnreachable.
//
// It reaches an agent only through package api, and does no work of its own that another package could do.
package cli

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes, the same for every command.
const (
	ExitOK          = 0 // fine; warnings, too, are fine
	ExitFindings    = 1 // the command did its work and found an error, or could not do its work
	ExitUsage       = 2 // the command line is wrong: nothing was done
	ExitUnreachable = 3 // no agent (or no cluster) answers
)

// exitError is an error that says which code the process ends with and, where there is one, what to do about it.
// A command that returns any other error ends with ExitFindings.
type exitError struct {
	code   int
	err    error  // nil: what is to be said has been printed
	remedy string // one line, printed after "  remedy: "; may be empty
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageError marks err as a wrong command line, for what only the command itself can see.
func usageError(err error) error { return &exitError{code: ExitUsage, err: err} }

// withRemedy adds to err what the reader can do about it.
func withRemedy(err error, remedy string) error {
	return &exitError{code: ExitFindings, err: err, remedy: remedy}
}

// foundErrors ends a command whose findings are on stdout already.
func foundErrors() error { return &exitError{code: ExitFindings} }

// Main runs the command line args (args[0] is the program's name) and returns the exit code of the process. It is the
// whole program but for os.Exit; it reads the environment.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot(args[0])
	root.SetArgs(args[1:])
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	began := false // an error before a command begins is one of its command line
	root.PersistentPreRun = func(*cobra.Command, []string) { began = true }
	cmd, err := root.ExecuteC()
	if err == nil {
		return ExitOK
	}
	return report(stderr, cmd, err, began)
}

// report prints err, once, and returns the exit code that goes with it.
func report(stderr io.Writer, cmd *cobra.Command, err error, began bool) int {
	e := &exitError{code: ExitFindings, err: err}
	if !errors.As(err, &e) && !began {
		e.code = ExitUsage
	}
	if e.err == nil {
		return e.code
	}
	for i, line := range strings.Split(strings.TrimSpace(err.Error()), "\n") {
		if i == 0 {
			line = "error: " + line
		}
		fmt.Fprintln(stderr, escape(line))
	}
	if e.remedy != "" {
		fmt.Fprintln(stderr, "  remedy:", escape(e.remedy))
	}
	if e.code == ExitUsage {
		fmt.Fprintf(stderr, "Run '%s --help' for usage.\n", cmd.CommandPath())
	}
	return e.code
}

const rootLong = `dnslet answers a Kubernetes node's DNS on the node itself, so that lookups no longer
cross conntrack and DNAT, and steps aside in the kernel the moment it cannot answer.

Exit codes: 0 fine, 1 an error was found, 2 wrong usage, 3 no agent answers.

Example:
  dnslet agent
  dnslet status
  dnslet lab demo`

// newRoot builds the whole command tree. program is argv[0]: as a kubectl plugin the help texts say "kubectl dnslet".
func newRoot(program string) *cobra.Command {
	root := &cobra.Command{
		Use:           "dnslet",
		Short:         "The node-local DNS agent for Kubernetes that fails open",
		Long:          rootLong,
		Args:          knownCommand,
		SilenceErrors: true, // report prints them, once
		SilenceUsage:  true, // a page of help buries the error
		// Without a Run of its own cobra would print help and end with 0 for "dnslet nosuch" in a script.
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError(err) })
	if strings.HasPrefix(filepath.Base(program), "kubectl-") {
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl dnslet"}
	}
	root.AddCommand(agentCommand(), statusCommand(), configCommand(), cleanupCommand(), labCommand(), versionCommand())
	return root
}

// knownCommand refuses what is no command, and says which one may have been meant.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	cmd.SuggestionsMinimumDistance = 2 // typing errors, as of "staus" and "sttaus"
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("; did you mean %q?", near[0])
	}
	return fmt.Errorf("unknown command %q for %q%s", args[0], cmd.CommandPath(), hint)
}
