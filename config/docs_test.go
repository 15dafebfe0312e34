package config

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

//go:generate go test -run ^(TestDocs|TestCheckStories)$ -update .

const (
	docsFile  = "../docs/config.md"
	docsBegin = "<!-- made from the table of package config by go generate; do not edit -->\n"
	docsEnd   = "<!-- end -->\n"
)

// TestDocs holds docs/config.md to the code: the tables of keys are made from the schema, and every YAML example must
// be accepted by Check without a warning that the text does not have.
//
// Red when: a key, default or sentence of the table changes and the page does not, or an example has a typing error.
func TestDocs(t *testing.T) {
	b, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	before, rest, ok := strings.Cut(page, docsBegin)
	_, after, ok2 := strings.Cut(rest, docsEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has lost the marks of its generated part", docsFile)
	}
	want := before + docsBegin + reference(t) + docsEnd + after
	if *update {
		if err := os.WriteFile(docsFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(want, page); diff != "" {
		t.Errorf("%s is not what the code says, run make generate (-want +got):\n%s", docsFile, diff)
	}
	examples := strings.Split(page, "```yaml\n")[1:]
	if len(examples) < 2 {
		t.Errorf("the page has %d examples", len(examples))
	}
	for _, e := range examples {
		text, _, _ := strings.Cut(e, "```")
		_, warnings, err := Check([]byte(text), "example")
		if err != nil {
			t.Errorf("an example is refused: %v\n%s", err, text)
		}
		for _, w := range warnings {
			if _, reason, _ := strings.Cut(w.String(), ": "); !strings.Contains(page, strings.Split(reason, ":")[0]) {
				t.Errorf("an example has a warning that the page does not explain: %s", w)
			}
		}
	}
}

// reference writes a table of keys for each part of the file, in the order of the table.
func reference(t *testing.T) string {
	var b strings.Builder
	b.WriteString("\n### The file\n\n")
	section(t, &b, readSchema(t), table().keys())
	for _, part := range []struct {
		title, path string
		keys        []string
	}{
		{"upstreams.NAME", "upstreams.*", upstreamTable().keys()},
		{"cache", "cache", cacheTable().keys()},
		{"zones[]", "zones.*", zoneTable().keys()},
		{"zones[].hosts[]", "zones.*.hosts.*", hostTable().keys()},
		{"intercept", "intercept", interceptTable().keys()},
		{"intercept.marks", "intercept.marks", marksTable().keys()},
		{"limits", "limits", limitsTable().keys()},
		{"admin", "admin", adminTable().keys()},
		{"log", "log", logTable().keys()},
	} {
		fmt.Fprintf(&b, "### %s\n\n", part.title)
		section(t, &b, subschema(readSchema(t), part.path), part.keys)
	}
	return b.String()
}

func subschema(s schema, path string) schema {
	for _, step := range strings.Split(path, ".") {
		var next any
		switch {
		case step != "*":
			next = s["properties"].(map[string]any)[step]
		case s["type"] == "array":
			next = s["items"]
		default:
			next = s["additionalProperties"]
		}
		s = next.(map[string]any)
	}
	return s
}

func section(t *testing.T, b *strings.Builder, s schema, keys []string) {
	t.Helper()
	props := s["properties"].(map[string]any)
	if len(keys) != len(props) {
		t.Fatalf("keys %v, the schema has %d", keys, len(props))
	}
	b.WriteString("| key | value | default | meaning |\n|---|---|---|---|\n")
	required, _ := s["required"].([]any)
	for _, k := range keys {
		p := schema(props[k].(map[string]any))
		doc := p["description"].(string)
		if p["x-restart"] == true {
			doc += " *Restart.*"
		}
		def := defaultText(p)
		if d, ok := p["default"].(float64); ok && strings.Contains(doc, "sockets that") {
			def = fmt.Sprintf("`%#x`", int(d)) // marks are written so everywhere
		}
		if slices.Contains(required, any(k)) {
			def = "must be given"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", k, kindText(p), def, doc)
	}
	b.WriteString("\n")
}

func kindText(p schema) string {
	switch p["type"] {
	case "object":
		if _, ok := p["properties"]; ok {
			return "see below"
		}
		return "groups by name, see below"
	case "array":
		items := schema(p["items"].(map[string]any))
		if items["type"] == "object" {
			return "list, see below"
		}
		return "list of: " + kindText(items)
	case "boolean":
		return "`true`, `false`"
	case "integer":
		return fmt.Sprintf("%.0f to %.0f", p["minimum"], p["maximum"])
	}
	if enum, ok := p["enum"].([]any); ok {
		words := make([]string, len(enum))
		for i, w := range enum {
			words[i] = fmt.Sprintf("`%s`", w)
		}
		return strings.Join(words, ", ")
	}
	if r, ok := p["x-range"]; ok {
		return fmt.Sprintf("%s, %s", p["x-type"], r)
	}
	return p["x-type"].(string)
}

func defaultText(p schema) string {
	if k, ok := p["x-inherits"]; ok {
		return fmt.Sprintf("that of `%s`", k)
	}
	switch d := p["default"].(type) {
	case nil:
		if p["type"] == "object" && p["properties"] != nil {
			return ""
		}
		return "none"
	case []any:
		if len(d) == 0 {
			return "none"
		}
		words := make([]string, len(d))
		for i, w := range d {
			words[i] = fmt.Sprintf("`%s`", w)
		}
		return strings.Join(words, ", ")
	case map[string]any:
		b, _ := json.Marshal(d["default"].(map[string]any)["resolvConf"])
		return "`default` from " + strings.Trim(string(b), `"`)
	case float64:
		return "`" + strconv.FormatFloat(d, 'f', -1, 64) + "`"
	default:
		return fmt.Sprintf("`%v`", d)
	}
}
