package wire

import (
	"bytes"
	"testing"
)

// asciiLower is the slow and obvious way.
func asciiLower(b []byte) []byte {
	out := make([]byte, len(b))
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		out[i] = c
	}
	return out
}

// Red when: behindZ in fold8 is computed with 'Z' instead of 'Z'+1, or letter
// forgets &^ x.
func TestFoldEveryByteAtEveryPlace(t *testing.T) {
	for n := 1; n <= 20; n++ {
		for at := range n {
			for c := range 256 {
				for _, around := range []byte{'A', 0x80, 0xff, 0} {
					name := bytes.Repeat([]byte{around}, n)
					name[at] = byte(c)
					want := asciiLower(name)
					got := make([]byte, n)
					Fold(got, name)
					if !bytes.Equal(got, want) {
						t.Fatalf("Fold(%x) = %x, want %x", name, got, want)
					}
					if !equalFold(name, want) {
						t.Fatalf("equalFold(%x, %x) = false", name, want)
					}
					Fold(name, name)
					if !bytes.Equal(name, want) {
						t.Fatalf("Fold in place = %x, want %x", name, want)
					}
				}
			}
		}
	}
}

// Red when: equalFold compares only whole groups of eight.
func TestEqualFoldTellsDifferences(t *testing.T) {
	for n := 1; n <= 20; n++ {
		a := bytes.Repeat([]byte{'x'}, n)
		for at := range n {
			b := bytes.Clone(a)
			b[at] = 'y'
			if equalFold(a, b) {
				t.Errorf("equalFold(%q, %q) = true", a, b)
			}
		}
		if equalFold(a, a[1:]) {
			t.Errorf("equalFold of lengths %d and %d = true", n, n-1)
		}
	}
	// '@' and '[' stand beside the letters, '`' and '{' beside the small ones.
	if equalFold([]byte("@["), []byte("`{")) {
		t.Error("equalFold folds what are no letters")
	}
}
