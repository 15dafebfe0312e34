package config

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// shorthands are the keys that exist for --set only.
var shorthands = map[string]string{"upstream": "upstreams." + DefaultUpstream + ".endpoints"}

// assign writes the assignments into the document, over what the file says.
func (d *decoder) assign(root *yaml.Node, set []string) {
	first := map[string]string{}
	for _, s := range set {
		at := &yaml.Node{}
		d.set[at] = s
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			d.fail(at, "", "is no assignment", "write key=value, for example listen=127.0.0.1:5300")
			continue
		}
		path := k
		if long := shorthands[k]; long != "" {
			path = long
		}
		if first[path] != "" {
			d.fail(at, path, "assigned twice, first by "+first[path], "separate the elements of a list with commas")
			continue
		}
		first[path] = s
		d.put(root, strings.Split(path, "."), path, v, s)
	}
}

// put makes the value at path, and the mappings on the way that are not there, the assignment's.
func (d *decoder) put(n *yaml.Node, steps []string, path, value, set string) {
	if n.Kind != yaml.MappingNode {
		return // the decoder will say that it must be one
	}
	mine := func(n *yaml.Node) *yaml.Node { d.set[n] = set; return n }
	var child *yaml.Node
	i := 0
	for ; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == steps[0] {
			child = n.Content[i+1]
			break
		}
	}
	if len(steps) > 1 && child != nil && child.Kind == yaml.MappingNode {
		d.put(child, steps[1:], path, value, set)
		return
	}
	var v *yaml.Node
	if len(steps) == 1 {
		v = mine(scalarNode("!!str", value))
	} else {
		v = mine(mappingNode())
		d.put(v, steps[1:], path, value, set)
	}
	if child != nil {
		n.Content[i], n.Content[i+1] = mine(scalarNode("!!str", steps[0])), v
	} else {
		n.Content = append(n.Content, mine(scalarNode("!!str", steps[0])), v)
	}
}

// split makes the list that an assigned text stands for.
func (d *decoder) split(n *yaml.Node) *yaml.Node {
	s := &yaml.Node{Kind: yaml.SequenceNode}
	d.set[s] = d.set[n]
	if n.Value == "" {
		return s
	}
	for _, part := range strings.Split(n.Value, ",") {
		e := scalarNode("!!str", strings.TrimSpace(part))
		d.set[e] = d.set[n]
		s.Content = append(s.Content, e)
	}
	return s
}
