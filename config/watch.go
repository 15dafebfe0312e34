package config

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// pollEvery finds what no event told: inotify instances are few (128 per user) and may be used up, events stop when
	// a directory is replaced, and some file systems have none. Reading a few KiB a second costs less than being
	// clever about time stamps, which lie for two writes within one tick.
	pollEvery = time.Second
	// settle is how long a file must have stayed the same before it is believed: an editor truncates, then writes, and
	// half of a YAML file is often a valid one.
	settle = 200 * time.Millisecond
	// coalesce is how long events are gathered before the files are read.
	coalesce = 20 * time.Millisecond
)

// Watcher tells when a configuration, or a resolv.conf that it names, has changed. Files are found again by name each
// time, so it does not matter how they change: rewritten in place, renamed over, deleted and made again, or by the
// swap of a symbolic link that Kubernetes uses for ConfigMaps.
type Watcher struct {
	file   string
	set    []string
	log    *slog.Logger
	events func() (*fsnotify.Watcher, error)
	poll   time.Duration

	config  Config            // the last good one
	failing bool              // the file is not what config was parsed from
	seen    map[string]*state // of every file in paths
}

// state is what is known of one watched file. Content nil: it was not there, or could not be read.
type state struct {
	handled []byte // what was acted on
	found   []byte // what the last look found
	since   time.Time
}

// NewWatcher watches file, whose text data was parsed as current with the assignments set. Without a file, "", only the
// resolv.confs that current names are watched. Make it before they are read, so that no change is missed in between.
func NewWatcher(file string, data []byte, set []string, current Config, log *slog.Logger) *Watcher {
	w := &Watcher{file: file, set: set, log: log, events: fsnotify.NewWatcher, poll: pollEvery, config: current, seen: map[string]*state{}}
	if file != "" {
		w.seen[file] = &state{handled: data, found: data}
	}
	w.remember()
	return w
}

// Run calls changed, from this goroutine, within 2 s of a change that lasts, until ctx ends; it returns ctx's error.
//
//   - The file is good and means something else, or is good again: changed(the new Config, nil).
//   - The file is bad or gone: changed(the last good Config, the error), once for each content. The good one stays.
//   - A resolv.conf that the Config names has other content: changed(the Config in force, nil). The caller reads it.
//
// Run may be called once.
func (w *Watcher) Run(ctx context.Context, changed func(Config, error)) error {
	notify, err := w.events()
	var hints <-chan fsnotify.Event
	var failures <-chan error
	if err != nil {
		w.log.Warn("no file events, changes are found by polling", "err", err)
	} else {
		defer notify.Close()
		hints, failures = notify.Events, notify.Errors
	}
	tick := time.NewTicker(w.poll)
	defer tick.Stop()
	soon := time.NewTimer(0) // the first look is for what changed before Run
	defer soon.Stop()
	pending := true
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, ok := <-hints: // which file it was does not matter: links may lead anywhere
			if hints = keep(hints, ok); !pending {
				soon.Reset(coalesce)
				pending = true
			}
			continue
		case _, ok := <-failures: // events were lost: the poll finds what they told
			failures = keep(failures, ok)
			continue
		case <-tick.C:
		case <-soon.C:
			pending = false
		}
		if notify != nil {
			w.follow(notify) // before the look: what changes after it has an event
		}
		if w.look(changed) && !pending {
			soon.Reset(settle)
			pending = true
		}
	}
}

// keep returns c, or nil, which never delivers, when c is closed.
func keep[T any](c <-chan T, open bool) <-chan T {
	if !open {
		return nil
	}
	return c
}

// paths returns the files to watch, the configuration first.
func (w *Watcher) paths() []string {
	var paths []string
	if w.file != "" {
		paths = append(paths, w.file)
	}
	for _, name := range sortedKeys(w.config.Upstreams) {
		if p := w.config.Upstreams[name].ResolvConf; p != "" && !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	return paths
}

// remember takes resolv.confs that are new to us as they are now, and forgets those that are not wanted any more.
func (w *Watcher) remember() {
	paths := w.paths()
	for _, p := range paths {
		if w.seen[p] == nil {
			data, _ := read(p)
			w.seen[p] = &state{handled: data, found: data}
		}
	}
	for p := range w.seen {
		if !slices.Contains(paths, p) {
			delete(w.seen, p)
		}
	}
}

// follow subscribes to the directories of all files, as named and as links resolve now. What cannot be subscribed to is
// left to the poll; adding what is there already renews what the kernel dropped.
func (w *Watcher) follow(notify *fsnotify.Watcher) {
	var dirs []string
	for _, p := range w.paths() {
		dirs = append(dirs, filepath.Dir(p))
		if real, err := filepath.EvalSymlinks(p); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	for _, d := range notify.WatchList() {
		if !slices.Contains(dirs, d) {
			_ = notify.Remove(d)
		}
	}
	for _, d := range dirs {
		_ = notify.Add(d)
	}
}

// look reads every file and acts on those that have settled on something new. It reports whether one has not settled.
func (w *Watcher) look(changed func(Config, error)) (unsettled bool) {
	now := time.Now()
	resolvConf := false
	for _, p := range w.paths() {
		s := w.seen[p]
		if s == nil {
			continue // the configuration, which comes first, has just let go of it
		}
		data, err := read(p)
		switch {
		case !same(data, s.found):
			s.found, s.since = data, now
			unsettled = unsettled || !same(data, s.handled)
		case same(data, s.handled):
		case now.Sub(s.since) < settle:
			unsettled = true
		case p == w.file:
			s.handled = data
			w.reload(data, err, changed)
		default:
			s.handled = data
			resolvConf = true
		}
	}
	if resolvConf {
		changed(w.config, nil)
	}
	return unsettled
}

// reload parses the configuration and tells what came of it.
func (w *Watcher) reload(data []byte, err error, changed func(Config, error)) {
	var c Config
	if err == nil {
		c, err = Parse(data, w.file, w.set...)
	}
	switch {
	case err != nil:
		w.failing = true
		changed(w.config, err)
	case w.failing || len(Diff(w.config, c)) > 0:
		w.failing = false
		w.config = c
		w.remember() // before the caller reads the resolv.confs, so that no change is missed in between
		changed(c, nil)
	}
}

// read returns the content of a file, or nil and the reason. One byte more than Parse takes is enough.
func read(path string) ([]byte, error) {
	if i, err := os.Stat(path); err == nil && !i.Mode().IsRegular() {
		return nil, fmt.Errorf("cannot read the file: %s is no regular file", path) // a pipe would block us
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the file: %w", err)
	}
	return data, nil
}

// same compares two contents; a file that is not there is unlike an empty one.
func same(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }
