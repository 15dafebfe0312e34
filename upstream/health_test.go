package upstream

import "testing"

// Each story is a sequence of events at a clock that counts them: "a" an answer, "l" a loss of a question asked just before,
// "L" a loss of a question asked at the very beginning.
func TestHealth(t *testing.T) {
	tests := []struct {
		name, story string
		want        State
	}{
		{"new", "", Up},
		{"answers", "aaa", Up},
		{"one loss", "al", Suspect},
		{"two losses", "all", Suspect},
		// Red when: ejectAfter is 4.
		{"three losses", "alll", Down},
		{"never heard", "lll", Down},
		// Red when: answered leaves losses as they are.
		{"back at the first answer", "allllllllla", Up},
		{"losses are consecutive", "allallall", Suspect},
		// Red when: lost does not look at when the question was asked.
		{"slow at some questions, not silent", "aLaLaLLLLL", Up},
		{"old losses of one never heard", "LLL", Down},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var h health
			for i, c := range tt.story {
				now := int64(10 * (i + 1))
				switch c {
				case 'a':
					h.answered(now)
				case 'l':
					h.lost(now - 1)
				case 'L':
					h.lost(1)
				}
			}
			if got := h.state(); got != tt.want {
				t.Errorf("%q: %v, want %v", tt.story, got, tt.want)
			}
		})
	}
}
