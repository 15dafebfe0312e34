package resolver

import "unsafe"

// ptr lets tests look at a sockaddr as the kernel does.
func ptr[T any](p *T) unsafe.Pointer { return unsafe.Pointer(p) }
