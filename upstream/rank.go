package upstream

import "time"

const (
	// near is how much slower than the fastest an endpoint may be and still get its share: replicas in other zones of a
	// region are a few hundred microseconds apart, and sending everything to the very fastest would make it the slowest.
	nearFactor = 2
	nearSlack  = time.Millisecond
)

// candidate is what pick decides by.
type candidate struct {
	state State
	ewma  time.Duration // 0: unknown, which counts as near so that it gets known
	tried bool          // already asked this very question
}

// pick returns the index of the endpoint to ask next, or -1 if all were tried. It takes the best state there is; among
// those, any that is near the fastest, by chance (random is uniform over uint32), so that equals share the load.
func pick(cs []candidate, random uint32) int {
	best, fastest := Down+1, time.Duration(0)
	for _, c := range cs {
		if c.tried || c.state > best {
			continue
		}
		if c.state < best || fastest == 0 || c.ewma != 0 && c.ewma < fastest {
			best, fastest = c.state, c.ewma
		}
	}
	limit := fastest*nearFactor + nearSlack
	isNear := func(c candidate) bool { return !c.tried && c.state == best && c.ewma <= limit }
	n := 0
	for _, c := range cs {
		if isNear(c) {
			n++
		}
	}
	if n == 0 {
		return -1
	}
	skip := int(uint64(random) * uint64(n) >> 32)
	for i, c := range cs {
		if isNear(c) {
			if skip == 0 {
				return i
			}
			skip--
		}
	}
	return -1
}
