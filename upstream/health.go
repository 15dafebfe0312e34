package upstream

// State is what is thought of an endpoint.
type State uint8

const (
	// Up: in service.
	Up State = iota
	// Suspect: something was lost since its last answer. It is probed at once and asked first only where all others are
	// no better.
	Suspect
	// Down: held for dead. Asked only when there is nobody else; probed until it answers.
	Down
)

// String returns "up", "suspect" or "down".
func (s State) String() string { return [...]string{"up", "suspect", "down"}[s] }
