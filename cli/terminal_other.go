//go:build !linux

package cli

import "os"

// isTerminal says whether f is a terminal, as far as its file mode tells.
func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}
