//go:build !race

package cache

const floodNames = 1_000_000
