package config

import (
	"fmt"
	"regexp"
	"sort"
	"strings"

	"go.yaml.in/yaml/v3"
)

// value is how a Go type V is written in YAML: read, written, compared and described by the same code.
type value[V any] interface {
	// decode reads n into *into, which holds what is in force when n says nothing about a part of it.
	decode(d *decoder, n *yaml.Node, path string, into *V)
	// encode returns v as YAML, or nil for a value that is written by leaving the key out.
	encode(v *V) *yaml.Node
	// schema returns the JSON Schema; def, if not nil, is the default of the whole value.
	schema(def *V) map[string]any
	// check reports what of v decode would refuse: a Config can be built in code, too.
	check(v *V, path string, errs *Errors)
	// diff adds the differences of a and b, whose key is path.
	diff(a, b *V, path string, restart bool, out *[]Change)
}

// field is one key of an object T; the closures hide the type of its value.
type field[T any] struct {
	key      string
	doc      string
	required bool   // must be given
	restart  bool   // a change takes effect after a restart only
	inherits string // key whose value holds when this one is not given
	decode   func(d *decoder, n *yaml.Node, path string, t *T)
	encode   func(t *T) *yaml.Node
	schema   func(def *T) map[string]any
	check    func(t *T, path string, errs *Errors)
	diff     func(a, b *T, path string, restart bool, out *[]Change)
}

// key describes one key: where its value is in T and how it is written.
func key[T, V any](name string, get func(*T) *V, v value[V], doc string) field[T] {
	return field[T]{
		key: name,
		doc: doc,
		decode: func(d *decoder, n *yaml.Node, path string, t *T) {
			decodeAt(d, n, path, v, get(t))
		},
		encode: func(t *T) *yaml.Node { return v.encode(get(t)) },
		schema: func(def *T) map[string]any {
			if def == nil {
				return v.schema(nil)
			}
			return v.schema(get(def))
		},
		check: func(t *T, path string, errs *Errors) { v.check(get(t), path, errs) },
		diff: func(a, b *T, path string, restart bool, out *[]Change) {
			v.diff(get(a), get(b), path, restart, out)
		},
	}
}

func (f field[T]) needsRestart() field[T]         { f.restart = true; return f }
func (f field[T]) mustBeGiven() field[T]          { f.required = true; return f }
func (f field[T]) inheritsFrom(k string) field[T] { f.inherits = k; return f }
func join(path, key string) string                { return strings.TrimPrefix(path+"."+key, ".") }
func scalarNode(tag, text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text}
}
func mappingNode(content ...*yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: yaml.MappingNode, Content: content}
}

// decodeAt refuses what no value may be, then lets v read n.
func decodeAt[V any](d *decoder, n *yaml.Node, path string, v value[V], into *V) {
	d.at[path] = n
	switch {
	case n.Kind == yaml.AliasNode:
		d.fail(n, path, "is a YAML alias, which is not supported", "write the value out")
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		d.fail(n, path, "has no value", "give it one or remove the key")
	default:
		v.decode(d, n, path, into)
	}
}

// object is a mapping with known keys.
type object[T any] struct {
	fields []field[T]
}

func (o object[T]) keys() []string {
	names := make([]string, len(o.fields))
	for i, f := range o.fields {
		names[i] = f.key
	}
	return names
}

// decode reads the keys in the order of the table, not of the file: what inherits comes after what it inherits from.
func (o object[T]) decode(d *decoder, n *yaml.Node, path string, into *T) {
	pairs, ok := d.pairs(n, path)
	if !ok {
		return
	}
	given := map[string]*yaml.Node{}
	for _, p := range pairs {
		given[p.key.Value] = p.value
	}
	for _, f := range o.fields {
		if v := given[f.key]; v != nil {
			f.decode(d, v, join(path, f.key), into)
		} else if f.required {
			d.fail(n, path, fmt.Sprintf("has no key %q", f.key), "add it")
		}
		delete(given, f.key)
	}
	for _, p := range pairs {
		if given[p.key.Value] == p.value {
			d.unknown(p.key, join(path, p.key.Value), o.keys())
		}
	}
}

func (o object[T]) encode(v *T) *yaml.Node {
	m := mappingNode()
	for _, f := range o.fields {
		if n := f.encode(v); n != nil {
			m.Content = append(m.Content, scalarNode("!!str", f.key), n)
		}
	}
	return m
}

func (o object[T]) schema(def *T) map[string]any {
	props := map[string]any{}
	var required []string
	for _, f := range o.fields {
		d := def
		if f.inherits != "" {
			d = nil
		}
		p := f.schema(d)
		p["description"] = f.doc
		if f.restart {
			p["x-restart"] = true
		}
		if f.inherits != "" {
			p["x-inherits"] = f.inherits
		}
		props[f.key] = p
		if f.required {
			required = append(required, f.key)
		}
	}
	s := map[string]any{"type": "object", "properties": props, "additionalProperties": false}
	if required != nil {
		s["required"] = required
	}
	return s
}

func (o object[T]) check(v *T, path string, errs *Errors) {
	for _, f := range o.fields {
		f.check(v, join(path, f.key), errs)
	}
}

func (o object[T]) diff(a, b *T, path string, restart bool, out *[]Change) {
	for _, f := range o.fields {
		f.diff(a, b, join(path, f.key), restart || f.restart, out)
	}
}

const (
	// maxElements bounds lists, since checks compare their elements with each other.
	maxElements = 10_000
	// maxGroups bounds upstream groups: each has sockets and a prober.
	maxGroups = 256
)

// list is a sequence of scalars, or of objects that id tells apart.
type list[V any] struct {
	of   value[V]
	elem func(*Config) V // what the keys not given of an element mean; nil: the zero V
	id   func(*V) string // nil: elements are scalars and compared as one whole
}

func (l list[V]) decode(d *decoder, n *yaml.Node, path string, into *[]V) {
	if n.Kind == yaml.ScalarNode && d.isSet(n) && l.id == nil {
		n = d.split(n)
	}
	if n.Kind != yaml.SequenceNode {
		hint := ""
		if n.Kind == yaml.ScalarNode && l.id == nil {
			hint = fmt.Sprintf("write [%s]", n.Value)
		}
		d.fail(n, path, "must be a list, not "+kindOf(n), hint)
		return
	}
	if len(n.Content) > maxElements {
		d.fail(n, path, fmt.Sprintf("has %d elements", len(n.Content)), fmt.Sprintf("at most %d are supported", maxElements))
		return
	}
	*into = nil
	for i, c := range n.Content {
		var v V
		if l.elem != nil {
			v = l.elem(d.cfg)
		}
		decodeAt(d, c, fmt.Sprintf("%s[%d]", path, i), l.of, &v)
		*into = append(*into, v)
	}
}

func (l list[V]) encode(v *[]V) *yaml.Node {
	s := &yaml.Node{Kind: yaml.SequenceNode}
	if l.id == nil {
		s.Style = yaml.FlowStyle
	}
	for i := range *v {
		s.Content = append(s.Content, l.of.encode(&(*v)[i]))
	}
	return s
}

func (l list[V]) schema(def *[]V) map[string]any {
	var elem *V
	if l.elem != nil {
		c := Default()
		v := l.elem(&c)
		elem = &v
	}
	s := map[string]any{"type": "array", "items": l.of.schema(elem), "maxItems": maxElements}
	if def != nil {
		s["default"] = plain(l.encode(def))
	}
	return s
}

func (l list[V]) check(v *[]V, path string, errs *Errors) {
	for i := range *v {
		l.of.check(&(*v)[i], fmt.Sprintf("%s[%d]", path, i), errs)
	}
}

func (l list[V]) diff(a, b *[]V, path string, restart bool, out *[]Change) {
	if l.id == nil {
		diffText(text(l.encode(a)), text(l.encode(b)), path, restart, out)
		return
	}
	index := func(s *[]V) map[string]V {
		m := map[string]V{}
		for i := range *s {
			m[l.id(&(*s)[i])] = (*s)[i]
		}
		return m
	}
	diffMaps(l.of, index(a), index(b), func(id string) string { return path + "[" + id + "]" }, restart, out)
}

// dict is a mapping whose keys are names of the user's choice. What is given is added to what was there by default.
type dict[V any] struct {
	of      value[V]
	elem    func() V
	pattern *regexp.Regexp // of a name
}

func (m dict[V]) decode(d *decoder, n *yaml.Node, path string, into *map[string]V) {
	pairs, ok := d.pairs(n, path)
	if !ok {
		return
	}
	if len(pairs) > maxGroups {
		d.fail(n, path, fmt.Sprintf("has %d keys", len(pairs)), fmt.Sprintf("at most %d are supported", maxGroups))
		return
	}
	merged := map[string]V{}
	for k, v := range *into {
		merged[k] = v
	}
	for _, p := range pairs {
		at := join(path, p.key.Value)
		if !m.pattern.MatchString(p.key.Value) {
			bad := m.badName(p.key.Value, at)
			d.fail(p.key, at, bad.Reason, bad.Suggestion)
			continue
		}
		v := m.elem()
		decodeAt(d, p.value, at, m.of, &v)
		merged[p.key.Value] = v
	}
	*into = merged
}

func (m dict[V]) encode(v *map[string]V) *yaml.Node {
	n := mappingNode()
	for _, k := range sortedKeys(*v) {
		e := (*v)[k]
		n.Content = append(n.Content, scalarNode("!!str", k), m.of.encode(&e))
	}
	return n
}

func (m dict[V]) schema(def *map[string]V) map[string]any {
	e := m.elem()
	s := map[string]any{
		"type":                 "object",
		"propertyNames":        map[string]any{"pattern": m.pattern.String()},
		"additionalProperties": m.of.schema(&e),
		"maxProperties":        maxGroups,
	}
	if def != nil {
		s["default"] = plain(m.encode(def))
	}
	return s
}

func (m dict[V]) check(v *map[string]V, path string, errs *Errors) {
	for _, k := range sortedKeys(*v) {
		e := (*v)[k]
		if !m.pattern.MatchString(k) {
			*errs = append(*errs, m.badName(k, join(path, k)))
		}
		m.of.check(&e, join(path, k), errs)
	}
}

func (m dict[V]) badName(k, path string) Problem {
	return Problem{Path: path, Reason: fmt.Sprintf("%q is no name for a group", k), Suggestion: "use up to 63 lower-case letters, digits and hyphens"}
}

func (m dict[V]) diff(a, b *map[string]V, path string, restart bool, out *[]Change) {
	diffMaps(m.of, *a, *b, func(k string) string { return join(path, k) }, restart, out)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// kindOf names what n is, for a message.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "a YAML alias"
	}
	switch n.ShortTag() {
	case "!!str":
		return "text"
	case "!!int":
		return "a number"
	case "!!float":
		return "a fraction"
	case "!!bool":
		return "true or false"
	case "!!null":
		return "nothing"
	}
	return "a " + strings.TrimLeft(n.ShortTag(), "!")
}
