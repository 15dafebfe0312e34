package upstream

// State is what is thought of an endpoint.
type State uint8

const (
	// Up: in service.
	Up State = iota
	// Suspect: something was lost since its last answer. It is probed at once, and asked first only where no other is Up.
	Suspect
	// Down: held for dead. Asked only when there is nobody else; probed until it answers.
	Down
)

// String returns "up", "suspect" or "down".
func (s State) String() string { return [...]string{"up", "suspect", "down"}[s] }

// ejectAfter consecutive losses hold an endpoint for dead. The second and third are usually probes: a single lost
// question makes a suspect, and a suspect is probed at once.
const ejectAfter = 3

// health counts what an endpoint lost since its last answer. A plain value without clock or lock. Any response is an
// answer here, whatever its RCODE: a server that says SERVFAIL is alive.
type health struct {
	losses int
	asof   int64 // when the last answer came; the group's clock
	heard  bool  // whether there ever was one
}

// state derives what is thought of the endpoint. Losses are the whole memory, so one answer puts it back in service.
func (h *health) state() State {
	switch {
	case h.losses == 0:
		return Up
	case h.losses < ejectAfter:
		return Suspect
	}
	return Down
}

// answered notes an answer at now.
func (h *health) answered(now int64) { h.losses, h.asof, h.heard = 0, now, true }

// lost notes that a question asked at sent has failed or is overdue. An endpoint that has answered anything since then
// is slow at that question, not silent, and loses nothing by it.
func (h *health) lost(sent int64) {
	if h.heard && h.asof >= sent {
		return
	}
	h.losses++
}
