package intercept

// Deny makes the kernel refuse features, by asking it for what no kernel has. Call it before Install.
func (i *Interception) Deny(owner, socket, fib bool) {
	if owner {
		i.kernel.ownerFlag = 1 << 30
	}
	if socket {
		i.kernel.names["socket"] = "sockex"
	}
	if fib {
		i.kernel.names["fib"] = "fix"
	}
}

// NftSocket is the descriptor that owns the tables.
func (i *Interception) NftSocket() int { return i.nft.fd }

// Stall makes everything that asks the kernel wait, as it does behind another program's long change of rules or links.
func (i *Interception) Stall() (release func()) {
	i.mu.Lock()
	i.routes.mu.Lock()
	return func() {
		i.routes.mu.Unlock()
		i.mu.Unlock()
	}
}
