package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"go.yaml.in/yaml/v3"
)

type schema map[string]any

func readSchema(t testing.TB) schema {
	t.Helper()
	var s schema
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// refuses is a validator for the words of JSON Schema that Schema uses, and fails on others. It returns the first
// objection to v, or "".
func (s schema) refuses(t testing.TB, path string, v any) string {
	t.Helper()
	for word := range s {
		if !slices.Contains([]string{"type", "properties", "additionalProperties", "propertyNames", "required", "items", "enum",
			"pattern", "minimum", "maximum", "default", "description", "title", "$schema", "x-restart", "x-inherits", "x-type",
			"x-range", "maxItems", "maxProperties"}, word) {
			t.Fatalf("%s: this test does not know the word %q", path, word)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		return s.refusesObject(t, path, v)
	case []any:
		if s["type"] != "array" {
			return path + ": an array"
		}
		for i, e := range v {
			if why := schema(s["items"].(map[string]any)).refuses(t, fmt.Sprintf("%s[%d]", path, i), e); why != "" {
				return why
			}
		}
	case string:
		if s["type"] != "string" {
			return path + ": a string"
		}
		if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, any(v)) {
			return path + ": not in the enum: " + v
		}
		if p, ok := s["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(v) {
			return path + ": does not match " + p + ": " + v
		}
	case float64:
		if s["type"] != "integer" || v != math.Trunc(v) {
			return path + ": a number"
		}
		if v < s["minimum"].(float64) || v > s["maximum"].(float64) {
			return path + ": out of range"
		}
	case bool:
		if s["type"] != "boolean" {
			return path + ": a boolean"
		}
	default:
		return fmt.Sprintf("%s: a %T", path, v)
	}
	return ""
}

func (s schema) refusesObject(t testing.TB, path string, v map[string]any) string {
	t.Helper()
	if s["type"] != "object" {
		return path + ": an object"
	}
	props, _ := s["properties"].(map[string]any)
	for _, k := range slices.Sorted(maps.Keys(v)) {
		sub, ok := props[k].(map[string]any)
		if !ok {
			sub, ok = s["additionalProperties"].(map[string]any)
		}
		if !ok {
			return path + ": unknown " + k
		}
		if n, has := s["propertyNames"].(map[string]any); has && !regexp.MustCompile(n["pattern"].(string)).MatchString(k) {
			return path + ": the name " + k
		}
		if why := schema(sub).refuses(t, path+"."+k, v[k]); why != "" {
			return why
		}
	}
	required, _ := s["required"].([]any)
	for _, k := range required {
		if _, ok := v[k.(string)]; !ok {
			return path + ": without " + k.(string)
		}
	}
	return ""
}

// asJSON is how an editor sees a YAML text.
func asJSON(t testing.TB, text string) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// Red when: scalar.schema calls every value a string.
func TestSchemaAcceptsWhatParseAccepts(t *testing.T) {
	ar, err := txtar.ParseFile("testdata/check.txtar")
	if err != nil {
		t.Fatal(err)
	}
	s := readSchema(t)
	for _, f := range ar.Files {
		c, err := Parse(f.Data, f.Name)
		if err != nil {
			continue
		}
		for _, text := range []string{string(f.Data), string(c.YAML())} {
			if why := s.refuses(t, "", asJSON(t, text)); why != "" {
				t.Errorf("%s: the schema refuses %s", f.Name, why)
			}
		}
	}
}

// leaf is one key of the schema that holds a value or a list of values.
type leaf struct {
	path   string
	schema schema
}

// leaves lists them; an element of upstreams is named x, of zones and hosts 0.
func leaves(path string, s schema) []leaf {
	if props, ok := s["properties"].(map[string]any); ok {
		var out []leaf
		for _, k := range slices.Sorted(maps.Keys(props)) {
			out = append(out, leaves(join(path, k), props[k].(map[string]any))...)
		}
		return out
	}
	if m, ok := s["additionalProperties"].(map[string]any); ok {
		return leaves(join(path, "x"), m)
	}
	if items, ok := s["items"].(map[string]any); ok && items["type"] == "object" {
		return leaves(join(path, "0"), items)
	}
	return []leaf{{path, s}}
}

// document writes a file with one value at a leaf's path, and what its neighbours require.
func (l leaf) document(value string) string {
	doc := value
	steps := strings.Split(l.path, ".")
	for i := len(steps) - 1; i >= 0; i-- {
		switch {
		case steps[i] == "x" && steps[i+1] != "resolvConf":
			doc = "{x: " + with(doc, "endpoints: [192.0.2.1]") + "}"
		case steps[i] != "0":
			doc = "{" + steps[i] + ": " + doc + "}"
		case steps[i-1] == "hosts":
			doc = "[" + with(doc, "name: h.z.example", "addresses: [192.0.2.1]") + "]"
		default:
			doc = "[" + with(doc, "zone: z.example") + "]"
		}
	}
	return doc
}

// with adds the keys that a flow mapping lacks.
func with(doc string, keys ...string) string {
	for _, k := range keys {
		name, _, _ := strings.Cut(k, ":")
		if !strings.HasPrefix(doc, "{"+name+":") {
			doc = strings.TrimSuffix(doc, "}") + ", " + k + "}"
		}
	}
	return doc
}

// Every key is tried with values of every kind: where the schema refuses one, Parse must, too, at that key; and a value
// that Parse refuses by kind, word, integer range or pattern, the schema must refuse.
//
// Red when: scalar.decode takes a number for a text, or the schema's bounds of an integer are not those it is parsed with.
func TestSchemaAndParseAgree(t *testing.T) {
	s := readSchema(t)
	values := []string{"5", "0", "-1", "4294967296", "1.5", "true", "text", `"5"`, "5s", "32MiB", "192.0.2.1", "'[2001:db8::1]:53'",
		"10.0.0.0/8", "/etc/resolv.conf", "auto", "udp", "json", "debug", "null", "{}", "[]", "[5]", "[x]", "[192.0.2.1]", "[[]]", "{a: 1}", "''",
		"5000", "['127.0.0.1:1053']", "default", "h.z.example", "'fd00::/120'", "10.0.0.0/24"}
	all := leaves("", s)
	if len(all) < 40 {
		t.Fatalf("only %d keys", len(all))
	}
	for _, l := range all {
		at := strings.NewReplacer(".0", "[0]").Replace(l.path)
		accepted := 0
		for _, v := range values {
			doc := l.document(v)
			refused := s.refuses(t, "", asJSON(t, doc))
			_, err := Parse([]byte(doc), "f")
			if err == nil {
				accepted++
			}
			about := err != nil && slices.ContainsFunc(err.(Errors), func(p Problem) bool { return under(p.Path, at) })
			if refused != "" && !about {
				t.Errorf("%s: the schema refuses %s, Parse says %v", doc, refused, err)
			}
			if refused == "" && about && byShape(err.(Errors), l.schema["type"] == "integer") {
				t.Errorf("%s: Parse says %v, the schema does not", doc, err)
			}
		}
		if accepted == 0 {
			t.Errorf("%s: no value was accepted, the test tries too few", l.path)
		}
	}
}

// byShape reports whether a refusal is of the kind that a schema can express.
func byShape(errs Errors, integer bool) bool {
	return slices.ContainsFunc(errs, func(p Problem) bool {
		return strings.HasPrefix(p.Reason, "must be ") || strings.HasSuffix(p.Reason, " is not known") || strings.HasPrefix(p.Reason, "has no ") ||
			strings.HasPrefix(p.Reason, "unknown key") || integer && strings.HasSuffix(p.Reason, " is out of range")
	})
}

// Red when: a key is added to the table without a word on what it means.
func TestEveryKeyIsDescribed(t *testing.T) {
	var walk func(path string, s schema)
	walk = func(path string, s schema) {
		props, _ := s["properties"].(map[string]any)
		for _, k := range slices.Sorted(maps.Keys(props)) {
			p := schema(props[k].(map[string]any))
			d, _ := p["description"].(string)
			if !strings.HasSuffix(d, ".") {
				t.Errorf("%s: description %q is no sentence", join(path, k), d)
			}
			walk(join(path, k), p)
			for _, in := range []string{"items", "additionalProperties"} {
				if sub, ok := p[in].(map[string]any); ok {
					walk(join(path, k), sub)
				}
			}
		}
	}
	walk("", readSchema(t))
}
