package cache

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/dnslet/dnslet/wire"
)

var rewrite = flag.Bool("rewrite", false, "write what happens into the stories in testdata")

// TestStories plays the files in testdata. Each is a txtar archive: every section is a story of its own, which
// begins with an empty cache at time 0. Lines that begin with "> " are commands, those below say what came of
// it; any other line that begins with "# " is for the reader. The commands:
//
//	cache KEY=VALUE...         start again with this configuration (bytes, min, max, negative, stale, failure,
//	                           failuremax, prefetch)
//	put NAME KIND [OPTION...]  what upstream said: positive, nxdomain, nodata, failure, other. Options:
//	                           ttl=S (several: ttl=300,30), soa=TTL (none without), size=BYTES of RDATA, ede=N,
//	                           epoch=N, max=D stale=D (lifetimes of the zone), truncated, ecs, norecurse
//	get NAME [xN] [norecurse]  what a client would get, after N lookups
//	advance DURATION           let time pass
//	flush [SUFFIX]             remove all names that end in it
//	sweep                      remove what is good for nothing
//	stats                      what the counters say
//
// Red when: Fill ages a stale answer, boundTTLs is not called, keepable forgets truncated ones, Put does not ask
// KeyCacheable, or stores a failure in place of a stale answer.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { playFile(t, file) })
	}
}

func playFile(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range archive.Files {
		f := &archive.Files[i]
		t.Run(f.Name, func(t *testing.T) {
			got, err := play(string(f.Data))
			if err != nil {
				t.Fatal(err)
			}
			if *rewrite {
				f.Data = []byte(got)
			} else if diff := cmp.Diff(string(f.Data), got); diff != "" {
				t.Errorf("another story than the one that is written (-written +played):\n%s", diff)
			}
		})
	}
	if *rewrite {
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// play runs the commands of a story and returns the story as it went.
func play(text string) (string, error) {
	var out strings.Builder
	s := &story{}
	if _, err := s.cache(nil); err != nil {
		return "", err
	}
	for line := range strings.Lines(text) {
		command, ok := strings.CutPrefix(line, "> ")
		switch {
		case ok:
			said, err := s.do(strings.Fields(command))
			if err != nil {
				return "", fmt.Errorf("%q: %w", strings.TrimSpace(command), err)
			}
			fmt.Fprintf(&out, "%s%s\n", line, said)
		case strings.HasPrefix(line, "# ") || line == "\n":
			out.WriteString(line)
		}
	}
	return out.String(), nil
}

type story struct {
	c   *Cache
	now int64
}

func (s *story) do(words []string) (string, error) {
	if len(words) == 0 {
		return "", errors.New("no command")
	}
	args := words[1:]
	switch words[0] {
	case "cache":
		return s.cache(args)
	case "put":
		return s.put(args)
	case "get":
		return s.get(args)
	case "advance":
		d, err := time.ParseDuration(args[0])
		s.now += int64(d)
		return fmt.Sprintf("now %v", time.Duration(s.now)), err
	case "flush":
		return s.flush(args)
	case "sweep":
		return fmt.Sprintf("%d removed", s.c.sweep(s.now)), nil
	case "stats":
		return s.stats(), nil
	}
	return "", errors.New("unknown command")
}

func (s *story) cache(args []string) (string, error) {
	cfg := Default()
	s.now = 0
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		n, err := strconv.ParseInt(value, 10, 64)
		d, err2 := time.ParseDuration(value)
		if err != nil && err2 != nil {
			return "", err2
		}
		switch key {
		case "bytes":
			cfg.Bytes = n
		case "prefetch":
			cfg.PrefetchHits = int(n)
		case "min":
			cfg.MinTTL = d
		case "max":
			cfg.MaxTTL = d
		case "negative":
			cfg.MaxNegativeTTL = d
		case "stale":
			cfg.StaleFor = d
		case "failure":
			cfg.FailureTTL = d
		case "failuremax":
			cfg.FailureMaxTTL = d
		default:
			return "", fmt.Errorf("unknown setting %s", key)
		}
	}
	c, err := New(cfg)
	if err != nil {
		return err.Error(), nil
	}
	s.c = c
	return "empty", nil
}

func (s *story) put(args []string) (string, error) {
	spec, o, flags := answerSpec{}, PutOptions{}, wire.FlagRD
	for _, arg := range args[2:] {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "ttl":
			for _, ttl := range strings.Split(value, ",") {
				spec.ttls = append(spec.ttls, uint32(number(ttl)))
			}
		case "soa":
			spec.soa, spec.soaTTL = true, uint32(number(value))
		case "size":
			spec.size = number(value)
		case "ede":
			spec.ede = wire.EDE(number(value))
		case "epoch":
			o.Epoch = uint64(number(value))
		case "max", "stale":
			if o.Lifetimes == nil {
				l := s.c.Lifetimes()
				o.Lifetimes = &l
			}
			d, err := time.ParseDuration(value)
			if err != nil {
				return "", err
			}
			if key == "max" {
				o.Lifetimes.MaxTTL = d
			} else {
				o.Lifetimes.StaleFor = d
			}
		case "truncated":
			spec.truncated = true
		case "ecs":
			spec.ecs = 24
		case "norecurse":
			flags = 0
		default:
			return "", fmt.Errorf("unknown option %s", arg)
		}
	}
	kind, ok := map[string]wire.Kind{
		"positive": wire.Positive, "nxdomain": wire.NXDomain, "nodata": wire.NoData, "failure": wire.Failure, "other": wire.Other,
	}[args[1]]
	if !ok {
		return "", fmt.Errorf("unknown kind %s", args[1])
	}
	spec.kind = kind
	key, a := testKey(args[0], flags), spec.answer()
	if e := s.c.Put(key, a, s.now, o); e != nil {
		return s.describe(e), nil
	}
	return "not kept; who waits gets " + s.describe(s.c.NewEntry(key, a, s.now, o)), nil
}

func (s *story) get(args []string) (string, error) {
	n, flags := 1, wire.FlagRD
	for _, arg := range args[1:] {
		if arg == "norecurse" {
			flags = 0
		} else {
			n = number(strings.TrimPrefix(arg, "x"))
		}
	}
	var e *Entry
	for range n {
		e = s.c.Get(testKey(args[0], flags), s.now)
	}
	if e == nil {
		return "miss", nil
	}
	return s.describe(e), nil
}

// describe says what a client gets, with the TTLs as they go out.
func (s *story) describe(e *Entry) string {
	var r wire.Reply
	e.Fill(&r, s.now)
	text := fmt.Sprintf("%v %v", e.State(s.now), r.RCode)
	separator := " ttl "
	for _, ttl := range r.TTLs {
		text += fmt.Sprintf("%s%d", separator, min(ttl.TTL-min(r.Age, ttl.TTL), r.TTLCap))
		separator = ","
	}
	if r.EDE != wire.EDENone {
		text += fmt.Sprintf(" (%v)", r.EDE)
	}
	if e.fails > 0 {
		text += fmt.Sprintf(", failed %d in a row, again after %v", e.fails, time.Duration(e.Refresh-s.now))
	}
	return text
}

func (s *story) flush(args []string) (string, error) {
	if len(args) == 0 {
		return fmt.Sprintf("%d removed", s.c.Flush(nil)), nil
	}
	suffix, err := wire.AppendName(nil, args[0])
	return fmt.Sprintf("%d removed", s.c.Flush(func(name []byte) bool { return bytes.HasSuffix(name, suffix) })), err
}

func (s *story) stats() string {
	st := s.c.Snapshot()
	return fmt.Sprintf("%d entries: %d positive, %d nxdomain, %d nodata, %d failed\n"+
		"%d put, %d replaced, %d held back, %d evicted, %d expired, %d flushed, %d too large",
		st.Entries, st.Positive, st.NXDomain, st.NoData, st.Failed,
		st.Puts, st.Replaced, st.HeldBack, st.Evicted, st.Expired, st.Flushed, st.TooLarge)
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return n
}

func testKey(name string, flags uint16) []byte {
	n, err := wire.AppendName(nil, name)
	if err != nil {
		panic(err)
	}
	return wire.AppendKey(nil, n, wire.TypeA, wire.ClassIN, flags, false)
}

// answerSpec describes what upstream said, as wire.Answer.Parse would have found it.
type answerSpec struct {
	kind      wire.Kind
	ttls      []uint32 // of address records
	soa       bool
	soaTTL    uint32
	size      int // RDATA octets; 0: 4
	ede       wire.EDE
	truncated bool
	ecs       uint8
}

func (s answerSpec) answer() *wire.Answer {
	a := &wire.Answer{
		Kind: s.kind, Flags: wire.FlagQR | wire.FlagRD | wire.FlagRA, MinTTL: 1<<32 - 1,
		HasSOA: s.soa, Truncated: s.truncated, ECSScope: s.ecs, EDE: s.ede,
	}
	record := func(ttl uint32, rdata int, section wire.Section) {
		a.Tail = append(a.Tail, 0xc0, wire.HeaderLen, 0, 1, 0, 1)
		a.TTLs = append(a.TTLs, wire.TTL{Off: uint16(len(a.Tail)), Section: section, TTL: ttl})
		a.Tail = append(a.Tail, byte(ttl>>24), byte(ttl>>16), byte(ttl>>8), byte(ttl), byte(rdata>>8), byte(rdata))
		a.Tail = append(a.Tail, make([]byte, rdata)...)
		a.MinTTL = min(a.MinTTL, ttl)
	}
	for _, ttl := range s.ttls {
		record(ttl, max(4, s.size), wire.SectionAnswer)
		a.ANCount++
	}
	if s.soa {
		record(s.soaTTL, 60, wire.SectionAuthority)
		a.NSCount++
	}
	if len(a.TTLs) == 0 {
		a.MinTTL = 0
	}
	a.Tail = slices.Clip(a.Tail)
	switch s.kind {
	case wire.NXDomain:
		a.RCode = wire.RCodeNXDomain
	case wire.Failure:
		a.RCode = wire.RCodeServFail
	}
	return a
}
