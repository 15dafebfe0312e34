package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds what is read: a ConfigMap cannot be larger, and a mistaken path can.
const maxFile = 1 << 20

// Parse reads a whole configuration: the file's text (nil where there is no file) over the defaults, and over it the
// assignments "key=value" of --set, each with the strictness of the file; then it checks the whole. file is the name
// that messages show. The error is Errors, with every problem found; the Config is then of no use.
//
// An assignment's key is the path of a value ("cache.size") and its value the text of one; a list is written with
// commas. "upstream" stands for "upstreams.default.endpoints". A key can be assigned once.
//
// A text without a single key is refused, so that a truncated file is never taken for a wish for defaults.
func Parse(data []byte, file string, set ...string) (Config, error) {
	return parse(data, file, set, Config.Validate)
}

// Check is Parse for a person who is about to apply the file. It is stricter in one point: a group of which nothing is
// left when the endpoints that are dnslet itself are dropped is an error; a running agent would rather serve the rest.
func Check(data []byte, file string, set ...string) (Config, []Warning, error) {
	c, err := parse(data, file, set, func(c Config) error {
		if err := c.Validate(); err != nil {
			return err
		}
		return c.empty()
	})
	if err != nil {
		return Config{}, nil, err
	}
	return c, c.Warnings(), nil
}

func parse(data []byte, file string, set []string, validate func(Config) error) (Config, error) {
	d := &decoder{file: file, set: map[*yaml.Node]string{}, at: map[string]*yaml.Node{}}
	c := Default()
	d.cfg = &c
	root := mappingNode()
	if data != nil {
		root = d.document(data)
	}
	if root != nil {
		d.assign(root, set)
		decodeAt(d, root, "", table(), &c)
		c.derive(func(path string) bool { return d.at[path] != nil })
	}
	if root != nil {
		d.place(validate(c))
	}
	if len(d.errs) > 0 {
		slices.SortStableFunc(d.errs, func(a, b Problem) int {
			return cmp.Or(cmp.Compare(rank(a, set), rank(b, set)), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		if d.more {
			d.errs = append(d.errs, Problem{Reason: "there are more problems than these"})
		}
		return Config{}, d.errs
	}
	return c, nil
}

// rank orders problems of the file before those of the assignments, and these as they were given.
func rank(p Problem, set []string) int {
	s, ok := strings.CutPrefix(p.File, setFile)
	if !ok {
		return -1
	}
	return slices.Index(set, s)
}

// setFile begins the File of a problem with an assignment, which follows.
const setFile = "--set "

// decoder is the state of one Parse.
type decoder struct {
	file string
	cfg  *Config
	set  map[*yaml.Node]string // nodes that come from --set, and the assignment
	at   map[string]*yaml.Node // where each key was given
	errs Errors
	more bool // there are problems beyond maxProblems
}

// maxProblems bounds what is said of one file, and the work of saying it.
const maxProblems = 100

// fail records a problem at n.
func (d *decoder) fail(n *yaml.Node, path, reason, suggestion string) {
	if len(d.errs) == maxProblems {
		d.more = true
		return
	}
	p := Problem{File: d.file, Line: n.Line, Column: n.Column, Path: clip(path), Reason: clip(reason), Suggestion: clip(suggestion)}
	if s, ok := d.set[n]; ok {
		p.File, p.Line, p.Column = setFile+s, 0, 0
	}
	d.errs = append(d.errs, p)
}

// clip shortens what may quote a whole file.
func clip(s string) string {
	const most = 300
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

func (d *decoder) isSet(n *yaml.Node) bool { _, ok := d.set[n]; return ok }

// unknown reports a key that the table does not have.
func (d *decoder) unknown(n *yaml.Node, path string, known []string) {
	hint := "known here: " + strings.Join(known, ", ")
	if w := nearest(n.Value, known); w != "" {
		hint = fmt.Sprintf("did you mean %q?", w)
	}
	d.fail(n, path, "unknown key", hint)
}

// place adds the problems that a check of the whole found, each where its key, or the nearest above it, was given. Those
// that follow from what could not be decoded are left out.
func (d *decoder) place(err error) {
	var errs Errors
	errors.As(err, &errs)
	for _, p := range d.errs.add(errs)[len(d.errs):] {
		path := p.Path
		for d.at[path] == nil {
			path = path[:max(0, strings.LastIndexAny(path, ".["))] // "" is the document, which is always there
		}
		d.fail(d.at[path], p.Path, p.Reason, p.Suggestion)
	}
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

// document returns the root of the one YAML document in data, or nil after reporting why there is none.
func (d *decoder) document(data []byte) *yaml.Node {
	whole := &yaml.Node{Line: 1, Column: 1}
	if len(data) > maxFile {
		d.fail(whole, "", "the file is larger than 1 MiB", "")
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		d.syntax(whole, err)
		return nil
	}
	if len(doc.Content) == 0 || doc.Content[0].ShortTag() == "!!null" {
		d.fail(whole, "", "the file has no key", "if every default is meant, write {}")
		return nil
	}
	switch err := dec.Decode(&more); {
	case err == nil:
		d.fail(&more, "", "the file has a second document", "remove the line ---")
		return nil
	case !errors.Is(err, io.EOF):
		d.syntax(whole, err)
		return nil
	}
	return doc.Content[0]
}

// syntax reports an error of the YAML parser, which has its line in its text.
func (d *decoder) syntax(whole *yaml.Node, err error) {
	reason := strings.TrimPrefix(err.Error(), "yaml: ")
	at := *whole
	if m := yamlLine.FindStringSubmatchIndex(reason); m != nil {
		if line, err := strconv.Atoi(reason[m[2]:m[3]]); err == nil {
			at.Line = line
			reason = reason[:m[0]] + reason[m[1]:]
		}
	}
	hint := ""
	if strings.Contains(reason, "start any token") {
		hint = "indent with spaces, not tabs, and quote text that starts with @, ` or %"
	}
	d.fail(&at, "", "not YAML: "+reason, hint)
}

type pair struct{ key, value *yaml.Node }

// pairs returns the entries of a mapping, each key once, or false if n is none.
func (d *decoder) pairs(n *yaml.Node, path string) ([]pair, bool) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "must be a mapping, not "+kindOf(n), "")
		return nil, false
	}
	first := map[string]*yaml.Node{}
	var pairs []pair
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Kind == yaml.ScalarNode && k.ShortTag() == "!!merge":
			d.fail(k, path, "YAML merge keys are not supported", "write the values out")
		case k.Kind != yaml.ScalarNode || k.ShortTag() != "!!str":
			d.fail(k, path, "a key must be a word, not "+kindOf(k), "")
		case first[k.Value] != nil:
			d.fail(k, join(path, k.Value), fmt.Sprintf("given twice, first in line %d", first[k.Value].Line), "remove one")
		default:
			first[k.Value] = k
			pairs = append(pairs, pair{k, v})
		}
	}
	return pairs, true
}
