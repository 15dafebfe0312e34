package config

import (
	"errors"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// FuzzParse: no text makes Parse panic; a refusal says something at every problem; what is accepted is valid, is
// accepted by the schema, and is read back from what YAML writes.
func FuzzParse(f *testing.F) {
	ar, err := txtar.ParseFile("testdata/check.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range ar.Files {
		f.Add(file.Data, "log.level=debug")
	}
	f.Add([]byte("{}"), "upstream=10.0.0.1,[::1]:53")
	s := readSchema(f)
	f.Fuzz(func(t *testing.T, data []byte, set string) {
		c, err := Parse(data, "f.yaml", set)
		if err != nil {
			var errs Errors
			if !errors.As(err, &errs) || len(errs) == 0 {
				t.Fatalf("the error is %T: %v", err, err)
			}
			for _, p := range errs {
				if p.Reason == "" || p.File == "f.yaml" && (p.Line < 1 || p.Column < 1) {
					t.Errorf("a problem without reason or place: %+v", p)
				}
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Errorf("accepted, but not valid: %v", err)
		}
		again, err := Parse(c.YAML(), "again.yaml")
		if err != nil {
			t.Fatalf("cannot read back: %v\n%s", err, c.YAML())
		}
		if d := Diff(c, again); d != nil {
			t.Errorf("read back with %v", d)
		}
		if c, err := Parse(data, "f.yaml"); err == nil {
			if why := s.refuses(t, "", asJSON(t, string(data))); why != "" {
				t.Errorf("the schema refuses %s, Parse returns\n%s", why, c.YAML())
			}
		}
		c.Warnings()
	})
}
