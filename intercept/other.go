//go:build !linux

package intercept

import (
	"context"
	"net/netip"
)

// Interception needs Linux; elsewhere there is none.
type Interception struct{}

// Prepare returns ErrUnsupported.
func Prepare(*Plan) (*Interception, error) { return nil, ErrUnsupported }

// Install returns ErrUnsupported.
func (*Interception) Install() error { return ErrUnsupported }

// Run returns ErrUnsupported.
func (*Interception) Run(context.Context, func() error) error { return ErrUnsupported }

// Withdraw returns ErrUnsupported.
func (*Interception) Withdraw() error { return ErrUnsupported }

// Close returns ErrUnsupported.
func (*Interception) Close() error { return ErrUnsupported }

// SetEndpoints returns ErrUnsupported.
func (*Interception) SetEndpoints([]netip.AddrPort) error { return ErrUnsupported }

// SetBypass returns ErrUnsupported.
func (*Interception) SetBypass([]netip.Prefix) error { return ErrUnsupported }

// SetScope returns ErrUnsupported.
func (*Interception) SetScope([]netip.Prefix) error { return ErrUnsupported }

// Status returns ErrUnsupported.
func (*Interception) Status() (Status, error) { return Status{}, ErrUnsupported }

// Cleanup returns ErrUnsupported.
func Cleanup(bool) ([]string, error) { return nil, ErrUnsupported }
