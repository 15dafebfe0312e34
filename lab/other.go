//go:build !linux

package lab

import (
	"context"

	"github.com/dnslet/dnslet/lab/netns"
)

// Demo needs Linux.
func Demo(context.Context, Options) (int, error) { return 1, netns.Available() }

// Run needs Linux.
func Run(context.Context, Options, ...string) (int, error) { return 1, netns.Available() }
