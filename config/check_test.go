package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite testdata and docs/config.md from what the code does")

// TestCheckStories reads testdata/check.txtar: each NAME.yaml is checked as the file "f.yaml", and NAME.want is what is
// said of it. Lines "# --set KEY=VALUE" at its top are assignments.
//
// Red when: any message, position or check changes; a changed story is reviewed as code.
func TestCheckStories(t *testing.T) {
	const file = "testdata/check.txtar"
	ar, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []txtar.File
	for i, f := range ar.Files {
		name, isYAML := strings.CutSuffix(f.Name, ".yaml")
		if !isYAML {
			continue
		}
		got := story(string(f.Data))
		out = append(out, f, txtar.File{Name: name + ".want", Data: []byte(got)})
		if *update {
			continue
		}
		if i+1 == len(ar.Files) || ar.Files[i+1].Name != name+".want" {
			t.Errorf("%s has no %s.want after it: run go test -update", f.Name, name)
			continue
		}
		if diff := cmp.Diff(string(ar.Files[i+1].Data), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if *update {
		ar.Files = out
		if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func story(yaml string) string {
	var set []string
	for line := range strings.Lines(yaml) {
		s, ok := strings.CutPrefix(strings.TrimSpace(line), "# --set ")
		if !ok {
			break
		}
		set = append(set, s)
	}
	c, warnings, err := Check([]byte(yaml), "f.yaml", set...)
	if err != nil {
		return err.Error() + "\n"
	}
	var b strings.Builder
	for _, w := range warnings {
		fmt.Fprintln(&b, "warning:", w)
	}
	for _, ch := range Diff(Default(), c) {
		fmt.Fprintln(&b, ch)
	}
	if b.Len() == 0 {
		return "the defaults\n"
	}
	return b.String()
}

// Red when: Parse returns at the first problem.
func TestParseCollectsAll(t *testing.T) {
	_, err := Parse([]byte("listen: 5\nlog: {level: loud}\ncache: {sise: 1}\n"), "f.yaml", "x=1")
	var errs Errors
	if !errors.As(err, &errs) || len(errs) != 4 {
		t.Errorf("got %d problems, want 4:\n%v", len(errs), err)
	}
}

// Red when: a default is out of its own range.
func TestDefaultIsValid(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
	c, err := Parse(nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if changes := Diff(Default(), c); changes != nil {
		t.Errorf("no file means %v", changes)
	}
}

// Red when: Default hands out the same map twice.
func TestDefaultIsFresh(t *testing.T) {
	a := Default()
	a.Upstreams["mine"] = Upstream{}
	a.Listen[0] = a.Admin.Listen
	if changes := Diff(Default(), a); len(changes) != 2 {
		t.Errorf("a change of one default shows in the next: %v", changes)
	}
}

// Red when: encode forgets a key (rate), or a format writes what parse does not read back.
func TestYAMLIsReadBack(t *testing.T) {
	ar, err := txtar.ParseFile("testdata/check.txtar")
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, f := range ar.Files {
		if f.Name == "everything.yaml" {
			sayAll(t, string(f.Data))
		}
		c, err := Parse(f.Data, f.Name)
		if err != nil {
			continue
		}
		read++
		again, err := Parse(c.YAML(), f.Name)
		if err != nil {
			t.Errorf("%s: what YAML wrote is refused: %v\n%s", f.Name, err, c.YAML())
			continue
		}
		if diff := Diff(c, again); diff != nil {
			t.Errorf("%s: read back with %v", f.Name, diff)
		}
	}
	if read < 5 {
		t.Errorf("only %d stories are good files", read)
	}
}

// sayAll checks that a file gives every key there is.
func sayAll(t *testing.T, text string) {
	t.Helper()
	for _, l := range leaves("", readSchema(t)) {
		last := l.path[strings.LastIndex(l.path, ".")+1:]
		if !strings.Contains(text, last+":") {
			t.Errorf("everything.yaml has no %s: add it with another value than the default", l.path)
		}
	}
}
