//go:build !linux

package upstream

// maxInFlight stays below the 256 descriptors that macOS grants by default.
func maxInFlight() int { return 64 }
