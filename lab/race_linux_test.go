//go:build race

package lab

// raceDetector: the agent is this very binary, and the detector's shadow of its memory is no part of what it promises.
const raceDetector = true
