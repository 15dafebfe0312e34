//go:build !linux

package netns

import "fmt"

// Available says that network namespaces need Linux.
func Available() error { return fmt.Errorf("%w: they need Linux", ErrUnavailable) }

// Enter says that network namespaces need Linux.
func Enter() (inside bool, code int, err error) { return false, 0, Available() }
