// Report runs `go test` and prints what a person needs of it: one line for each package as it ends, the whole output of what
// failed, and at the end every skipped test with its reason and the counts. Its exit code is that of go test.
//
//	go run ./test/report -- go test ./...
//
// It does not decide what is run, and hides no output of a failure.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// event is one line of `go test -json` (cmd/internal/test2json).
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

type skip struct{ test, reason string }

// summary collects the events of one run.
type summary struct {
	out                     io.Writer
	output                  map[string][]string // by package + test, until the test ends
	passed, failed, skipped int
	skips                   []skip
	failures                []string
}

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) < 2 || args[1] != "test" {
		fmt.Fprintln(os.Stderr, "usage: report -- go test [flags] packages")
		os.Exit(2)
	}
	code, err := run(args, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(args []string, out io.Writer) (int, error) {
	cmd := exec.Command(args[0], slices.Insert(slices.Clone(args[1:]), 1, "-json")...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return 1, fmt.Errorf("cannot read from go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("cannot start go test: %w", err)
	}
	s := summary{out: out, output: map[string][]string{}}
	readErr := s.read(pipe)
	err = cmd.Wait()
	s.print()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.ExitCode(), readErr
	case err != nil:
		return 1, err
	case s.failed > 0: // cannot be with exit code 0, but a green run must not hide it
		return 1, readErr
	}
	return 0, readErr
}

func (s *summary) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(s.out, lines.Text()) // not an event: show it as it came
			continue
		}
		s.take(e)
	}
	return lines.Err()
}

func (s *summary) take(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		s.output[key] = append(s.output[key], e.Output)
	case "build-output":
		fmt.Fprint(s.out, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.packageEnds(e, key)
		} else {
			s.testEnds(e, key)
		}
		delete(s.output, key)
	}
}

func (s *summary) testEnds(e event, key string) {
	switch e.Action {
	case "pass":
		s.passed++
	case "skip":
		s.skipped++
		s.skips = append(s.skips, skip{test: short(e.Package) + " " + e.Test, reason: reason(s.output[key])})
	case "fail":
		s.failed++
		s.failures = append(s.failures, short(e.Package)+" "+e.Test)
		fmt.Fprintf(s.out, "--- %s %s\n%s", short(e.Package), e.Test, strings.Join(s.output[key], ""))
	}
}

func (s *summary) packageEnds(e event, key string) {
	word := map[string]string{"pass": "ok", "fail": "FAIL", "skip": "no tests"}[e.Action]
	fmt.Fprintf(s.out, "%-8s %-14s %6.1fs\n", word, short(e.Package), e.Elapsed)
	for _, line := range s.output[key] {
		// What a TestMain says about tests it cannot run at all stands outside of any test.
		if text, found := strings.CutPrefix(strings.TrimSpace(line), "skipped: "); found {
			s.skips = append(s.skips, skip{test: short(e.Package), reason: text})
			s.skipped++
		}
	}
	if e.Action == "fail" {
		fmt.Fprint(s.out, strings.Join(s.output[key], ""))
		if len(s.failures) == 0 || !strings.HasPrefix(s.failures[len(s.failures)-1], short(e.Package)+" ") {
			s.failed++ // the package itself: it did not build, or ended early
			s.failures = append(s.failures, short(e.Package))
		}
	}
}

func (s *summary) print() {
	if len(s.skips) > 0 {
		fmt.Fprintln(s.out, "\nskipped:")
		for _, k := range s.skips {
			fmt.Fprintf(s.out, "  %s: %s\n", k.test, k.reason)
		}
	}
	if len(s.failures) > 0 {
		fmt.Fprintln(s.out, "\nfailed:")
		for _, f := range s.failures {
			fmt.Fprintln(s.out, " ", f)
		}
	}
	fmt.Fprintf(s.out, "\n%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
}

// reason is what the test said when it skipped itself: its last output line but go test's own.
func reason(output []string) string {
	text := "no reason given"
	for _, line := range output {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "===") || strings.HasPrefix(line, "---") {
			continue
		}
		text = line
	}
	return text
}

// short is the package as one types it: its path below the module.
func short(pkg string) string {
	if rest, found := strings.CutPrefix(pkg, "github.com/dnslet/dnslet/"); found {
		return rest
	}
	return strings.TrimPrefix(pkg, "github.com/dnslet/")
}
