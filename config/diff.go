package config

import (
	"bytes"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// Change is one key with another value.
type Change struct {
	Path    string `json:"path"`    // "cache.size", "zones[corp.example.].upstream"
	Old     string `json:"old"`     // as written in YAML; empty: not there
	New     string `json:"new"`     // the same
	Restart bool   `json:"restart"` // takes effect after a restart only
}

// String returns "path: old -> new".
func (c Change) String() string {
	show := func(s string) string {
		if s == "" {
			return "(none)"
		}
		return s
	}
	s := fmt.Sprintf("%s: %s -> %s", c.Path, show(c.Old), show(c.New))
	if c.Restart {
		s += " (restart)"
	}
	return s
}

// Diff returns what is different in b, in the order of the table. The order of zones and of hosts means nothing and is
// not compared; that of addresses is.
func Diff(a, b Config) []Change {
	var out []Change
	table().diff(&a, &b, "", false, &out)
	return out
}

func diffText(a, b, path string, restart bool, out *[]Change) {
	if a != b {
		*out = append(*out, Change{Path: path, Old: a, New: b, Restart: restart})
	}
}

// diffMaps reports elements that came or went as one change, and the differences within those that stayed.
func diffMaps[V any](of value[V], a, b map[string]V, at func(string) string, restart bool, out *[]Change) {
	all := map[string]bool{}
	for k := range a {
		all[k] = true
	}
	for k := range b {
		all[k] = true
	}
	for _, k := range sortedKeys(all) {
		va, ina := a[k]
		vb, inb := b[k]
		switch {
		case ina && inb:
			of.diff(&va, &vb, at(k), restart, out)
		case ina:
			diffText(text(of.encode(&va)), "", at(k), restart, out)
		default:
			diffText("", text(of.encode(&vb)), at(k), restart, out)
		}
	}
}

// text writes a value on one line.
func text(n *yaml.Node) string {
	flow := *n
	flow.Style = yaml.FlowStyle
	return string(bytes.TrimSpace(marshal(&flow)))
}

// YAML returns c as a file that Parse reads as c again, with every key.
func (c Config) YAML() []byte { return marshal(table().encode(&c)) }

func marshal(n *yaml.Node) []byte {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(n); err != nil {
		panic(fmt.Sprintf("config: a node of the table's own making cannot be written: %v", err))
	}
	return b.Bytes()
}
