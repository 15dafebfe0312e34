package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// addresses are n different ones.
func addresses(n int) string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("10.9.%d.%d", i/250, i%250+1)
	}
	return strings.Join(out, ", ")
}

// Red when: fail does not stop at maxProblems, or a list has no bound.
func TestParseIsBounded(t *testing.T) {
	var groups strings.Builder
	for i := range maxGroups + 1 {
		fmt.Fprintf(&groups, "g%d: {endpoints: [192.0.2.1]}, ", i)
	}
	tests := map[string]string{
		"problems":    "listen: [" + strings.Repeat("x, ", 500) + "]",
		"elements":    "listen: [" + strings.Repeat("x, ", maxElements+1) + "]",
		"groups":      "upstreams: {" + groups.String() + "}",
		"text":        "#" + strings.Repeat("x", maxFile),
		"depth":       strings.Repeat("[", maxFile),
		"long key":    "? " + strings.Repeat("a", maxFile/2) + "\n: 1\n",
		"long number": "limits: {inFlight: " + strings.Repeat("1", maxFile/2) + "}",
		"long word":   "log: {level: " + strings.Repeat("e", maxFile/2) + "}",
	}
	for name, text := range tests {
		var errs Errors
		if _, err := Parse([]byte(text), "f"); !errors.As(err, &errs) || len(errs) > maxProblems+1 || len(err.Error()) > 100_000 {
			t.Errorf("%s: %d problems, %d bytes", name, len(errs), len(err.Error()))
		}
	}
	for name, want := range map[string]string{"elements": "has 10001 elements", "groups": "has 257 keys"} {
		if _, err := Parse([]byte(tests[name]), "f"); !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for path, text := range map[string]string{
		"upstreams.default.endpoints": "upstreams: {default: {endpoints: [" + addresses(MaxEndpoints+1) + "]}}\nintercept: {vips: [172.20.0.10]}",
		"intercept.scope":             "intercept: {vips: [172.20.0.10], scope: [" + addresses(MaxSources+1) + "]}",
		"intercept.bypass":            "intercept: {vips: [172.20.0.10], bypass: [" + addresses(MaxSources+1) + "]}",
	} {
		var errs Errors
		if _, err := Parse([]byte(text), "f"); !errors.As(err, &errs) || len(errs) != 1 || errs[0].Path != path || !strings.Contains(errs[0].Reason, "at most") {
			t.Errorf("%s: got %v", path, err)
		}
	}
	_, err := Parse([]byte(tests["problems"]), "f")
	if last := err.(Errors)[maxProblems]; last.Reason != "there are more problems than these" {
		t.Errorf("the last of many is %v", last)
	}
}
