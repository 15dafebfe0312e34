package config

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	// File, Line and Column say where. File is "--set KEY=VALUE" for an assignment of the command line, then Line
	// and Column are 0; they are 0, too, for what a Config was found to be by Validate alone.
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	// Path is the key, as in "upstreams.default.endpoints[0]"; empty for the document as a whole.
	Path string `json:"path"`
	// Reason says what is wrong; Suggestion what to write instead, or nothing.
	Reason     string `json:"reason"`
	Suggestion string `json:"suggestion,omitempty"`
}

// String returns "file:line:col: path: reason; suggestion", without the parts that are not known.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
		}
		b.WriteString(": ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Reason)
	if p.Suggestion != "" {
		b.WriteString("; " + p.Suggestion)
	}
	return b.String()
}

// Errors are all the problems of a configuration, in the order of the file. It is the error that Parse and Validate
// return; it is never empty.
type Errors []Problem

// Error returns one problem a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Warning is something that works, but not as its writer may believe.
type Warning struct {
	Path   string `json:"path"` // the key, as in Problem
	Reason string `json:"reason"`
}

// String returns "path: reason".
func (w Warning) String() string { return w.Path + ": " + w.Reason }

// nearest returns the word closest to got by edit distance, or "" when none is close enough to have been meant.
func nearest(got string, words []string) string {
	best, bestDist := "", max(1, len(got)/3)+1
	for _, w := range words {
		if d := distance(strings.ToLower(got), strings.ToLower(w)); d < bestDist {
			best, bestDist = w, d
		}
	}
	return best
}

// distance counts the single-character insertions, deletions, replacements and swaps of neighbours between a and b
// (optimal string alignment: a swap is the commonest slip of the hand).
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(row[j-1]+1, last[j]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
