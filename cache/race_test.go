//go:build race

package cache

// The race detector makes a flood twenty times slower and adds nothing to a test of sizes with one goroutine.
const floodNames = 100_000
