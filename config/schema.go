package config

import (
	"encoding/json"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// Schema returns the JSON Schema (draft 2020-12) of the file, for editors. Whatever Parse accepts, it accepts. It is
// looser where JSON Schema has no words: ranges of durations, the syntax of addresses, what concerns several keys.
// x-restart marks keys whose change needs a restart, x-inherits names the key a value not given is taken from, x-type
// says what a text is, x-range what it may be.
func Schema() []byte {
	def := Default()
	s := table().schema(&def)
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "dnslet configuration"
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("config: the schema cannot be written: %v", err))
	}
	return append(b, '\n')
}

// plain turns a node of the table's own making into what encoding/json writes.
func plain(n *yaml.Node) any {
	var v any
	if err := n.Decode(&v); err != nil {
		panic(fmt.Sprintf("config: default %q cannot be read: %v", n.Value, err))
	}
	return v
}
