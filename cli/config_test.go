package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dnslet/dnslet/api"
	"github.com/dnslet/dnslet/config"
)

// ran is what a command line did.
type ran struct {
	code           int
	stdout, stderr string
}

func runConfig(stdin string, args ...string) ran {
	var out, errs bytes.Buffer
	code := Main(append([]string{"dnslet", "config"}, args...), strings.NewReader(stdin), &out, &errs)
	return ran{code, out.String(), errs.String()}
}

func configFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dnslet.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Red when: findings go to stderr, a warning makes the exit code 1, or a refused file makes it 0.
func TestConfigCheck(t *testing.T) {
	good := configFile(t, "cache: {size: 64MiB}\n")
	warned := configFile(t, "listen: ['127.0.0.1:53']\nupstreams: {default: {endpoints: [10.0.0.1, 127.0.0.1]}}\n")
	bad := configFile(t, "cache:\n  sise: 64MiB\n  maxTTL: 5\n")
	tests := map[string]struct {
		args []string
		want ran
	}{
		"good": {[]string{good}, ran{ExitOK, "ok    " + good + "\n", ""}},
		"warned": {[]string{warned}, ran{ExitOK, "warn  upstreams.default.endpoints[1]: 127.0.0.1:53 is not asked: dnslet itself listens there\n" +
			"ok    " + warned + "\n", ""}},
		"bad": {[]string{bad}, ran{ExitFindings, "fail  " + bad + `:2:3: cache.sise: unknown key; did you mean "size"?` + "\n" +
			"fail  " + bad + ":3:11: cache.maxTTL: must be a duration, not a number; add a unit: 5s\n", ""}},
		"good with an assignment": {[]string{"--set", "log.level=debug", good}, ran{ExitOK, "ok    " + good + "\n", ""}},
		"good but for an assignment": {[]string{"--set", "log.level=loud", good},
			ran{ExitFindings, `fail  --set log.level=loud: log.level: "loud" is not known; use one of debug, info, warn, error` + "\n", ""}},
	}
	for name, tt := range tests {
		if got := runConfig("", append([]string{"check"}, tt.args...)...); got != tt.want {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, tt.want)
		}
	}
}

// Red when: a missing argument or an unknown subcommand ends with 0 or 1.
func TestConfigUsage(t *testing.T) {
	good := configFile(t, "{}\n")
	for want, lines := range map[int][][]string{
		ExitUsage:    {{"check"}, {"check", good, good}, {"chekc", good}, {"diff", good}, {"check", "-o", "xml", good}, {"check", "--sett", "a=b", good}, {"schema", "x"}},
		ExitFindings: {{"check", good + ".missing"}, {"diff", good, good + ".missing"}},
		ExitOK:       {{}, {"check", good}},
	} {
		for _, args := range lines {
			got := runConfig("", args...)
			if got.code != want {
				t.Errorf("%v: exit code %d, want %d; %s", args, got.code, want, got.stderr)
			}
			if want != ExitOK && (got.stdout != "" || got.stderr == "") {
				t.Errorf("%v: stdout %q, stderr %q", args, got.stdout, got.stderr)
			}
		}
	}
}

// Red when: readConfig does not know "-", or takes no text for no file.
func TestConfigCheckStdin(t *testing.T) {
	if got := runConfig("log: {level: debug}\n", "check", "-"); got.code != ExitOK {
		t.Errorf("got %+v", got)
	}
	if got := runConfig("", "check", "-"); got.code != ExitFindings || !strings.Contains(got.stdout, "has no key") {
		t.Errorf("an empty stdin: %+v", got)
	}
}

// Red when: lists are null instead of empty, or schemaVersion is left out.
func TestConfigCheckJSON(t *testing.T) {
	var report configReport
	for text, want := range map[string]int{"{}": 0, "log: {levle: info}": 1} {
		got := runConfig(text, "check", "-o", "json", "-")
		if strings.Contains(got.stdout, "null") {
			t.Errorf("null in %s", got.stdout)
		}
		if err := json.Unmarshal([]byte(got.stdout), &report); err != nil {
			t.Fatalf("%v in %s", err, got.stdout)
		}
		if report.SchemaVersion != api.SchemaVersion || report.OK != (want == 0) || len(report.Problems) != want || got.code != want {
			t.Errorf("%s: %+v, exit code %d", text, report, got.code)
		}
	}
	if p := report.Problems; len(p) == 1 && (p[0].Line != 1 || p[0].Path != "log.levle") {
		t.Errorf("problem %+v", p[0])
	}
}

// Red when: warnings are mixed with the YAML, or a default is left out of it.
func TestConfigCheckYAML(t *testing.T) {
	got := runConfig("admin: {listen: '0.0.0.0:9553'}\n", "check", "-o", "yaml", "--set", "cache.size=1GiB", "-")
	c, err := config.Parse([]byte(got.stdout), "out")
	if err != nil {
		t.Fatalf("%v in\n%s", err, got.stdout)
	}
	if c.Cache.Size != 1<<30 || !strings.Contains(got.stdout, "heartbeat: 500ms") || !strings.HasPrefix(got.stderr, "warn  admin.listen") {
		t.Errorf("got %+v", got)
	}
	if got := runConfig("x: 1\n", "check", "-o", "yaml", "-"); got.code != ExitFindings || got.stdout != "" || !strings.HasPrefix(got.stderr, "fail  -:1:1: x") {
		t.Errorf("refused: %+v", got)
	}
}

// Red when: diff compares texts, or ends with 1 on a difference.
func TestConfigDiff(t *testing.T) {
	old, next := configFile(t, "cache: {size: 32MiB}\n"), configFile(t, "# new\ncache: {size: 64MiB}\nlog: {level: warn}\n")
	want := ran{ExitOK, "cache.size: 32MiB -> 64MiB (restart)\nlog.level: info -> warn\n2 changed, 1 of them need a restart\n", ""}
	if got := runConfig("", "diff", old, next); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	want = ran{ExitOK, "0 changed, 0 of them need a restart\n", ""}
	if got := runConfig("{}", "diff", old, "-"); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	var changes configChanges
	got := runConfig("", "diff", "-o", "json", old, next)
	if err := json.Unmarshal([]byte(got.stdout), &changes); err != nil || changes.SchemaVersion != api.SchemaVersion || !changes.Restart || len(changes.Changes) != 2 {
		t.Errorf("%v, %+v in %s", err, changes, got.stdout)
	}
	if got := runConfig("", "diff", "-o", "json", old, old); strings.Contains(got.stdout, "null") {
		t.Errorf("null in %s", got.stdout)
	}
	if got := runConfig("x: 1", "diff", old, "-"); got.code != ExitFindings || got.stdout != "" || !strings.Contains(got.stderr, "-:1:1: x: unknown key") {
		t.Errorf("a file that is refused: %+v", got)
	}
}

// Red when: something is printed around the schema.
func TestConfigSchema(t *testing.T) {
	got := runConfig("", "schema")
	if got.code != ExitOK || got.stdout != string(config.Schema()) || got.stderr != "" {
		t.Errorf("exit code %d, stderr %q, %d bytes", got.code, got.stderr, len(got.stdout))
	}
}

// A configuration may be anybody's: what it says does not reach the terminal as it is.
//
// Red when: printFindings does not escape.
func TestConfigCheckEscapes(t *testing.T) {
	got := runConfig(`"\x1b[2Jevil": 1`, "check", "-")
	if strings.Contains(got.stdout, "\x1b") || !strings.Contains(got.stdout, `\x1b[2Jevil`) {
		t.Errorf("got %q", got.stdout)
	}
}
