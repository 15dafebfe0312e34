package config

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	quiet = "log: {level: warn}\nupstreams: {default: {endpoints: [192.0.2.1]}}\n"
	loud  = "log: {level: debug}\nupstreams: {default: {endpoints: [192.0.2.1]}}\n"
	bad   = "log: {levle: debug}\n"
)

// call is one call of the callback.
type call struct {
	config Config
	err    error
	at     time.Time
}

// watched is a directory with a configuration and its running watcher.
type watched struct {
	t     *testing.T
	dir   string
	file  string
	calls chan call
	began time.Time
}

// watching starts a watcher on quiet, put there as a ConfigMap volume has it: config.yaml is a link through ..data.
func watching(t *testing.T, ctx context.Context, adjust func(*Watcher)) *watched {
	t.Helper()
	f := &watched{t: t, dir: filepath.Join(t.TempDir(), "etc"), calls: make(chan call, 100)}
	f.file = filepath.Join(f.dir, "config.yaml")
	f.must(os.Mkdir(f.dir, 0o755))
	f.swap("..one", quiet)
	f.must(os.Symlink("..data/config.yaml", f.file))
	f.run(ctx, f.file, quiet, adjust)
	return f
}

func (f *watched) run(ctx context.Context, file, text string, adjust func(*Watcher)) {
	f.t.Helper()
	var data []byte
	if file != "" {
		data = []byte(text)
	}
	c, err := Parse([]byte(text), file)
	f.must(err)
	w := NewWatcher(file, data, nil, c, slog.New(slog.DiscardHandler))
	adjust(w)
	go w.Run(ctx, func(c Config, err error) { f.calls <- call{c, err, time.Now()} })
}

func (f *watched) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *watched) write(path, text string) {
	f.t.Helper()
	f.must(os.WriteFile(path, []byte(text), 0o644))
}

// swap does what the kubelet does: a new directory, and ..data renamed over to it.
func (f *watched) swap(name, text string) {
	f.t.Helper()
	old, _ := os.Readlink(filepath.Join(f.dir, "..data"))
	f.must(os.Mkdir(filepath.Join(f.dir, name), 0o755))
	f.write(filepath.Join(f.dir, name, "config.yaml"), text)
	f.must(os.Symlink(name, filepath.Join(f.dir, "..data_tmp")))
	f.must(os.Rename(filepath.Join(f.dir, "..data_tmp"), filepath.Join(f.dir, "..data")))
	if old != "" {
		f.must(os.RemoveAll(filepath.Join(f.dir, old)))
	}
}

// next waits for one call.
func (f *watched) next(within time.Duration) call {
	f.t.Helper()
	select {
	case c := <-f.calls:
		return c
	case <-time.After(within):
		f.t.Fatalf("no call within %s", within)
	}
	return call{}
}

// ways are all the ways a file changes. Each leads to one call with loud.
var ways = map[string]func(f *watched){
	"ConfigMap swap": func(f *watched) { f.swap("..two", loud) },
	"rewritten in place": func(f *watched) {
		f.write(f.file, loud)
	},
	"renamed over": func(f *watched) {
		f.write(f.file+".tmp", loud)
		f.must(os.Rename(f.file+".tmp", f.file))
	},
	"rewritten where the link leads": func(f *watched) {
		f.write(filepath.Join(f.dir, "..one", "config.yaml"), loud)
	},
	"deleted and made again": func(f *watched) {
		f.must(os.Remove(f.file))
		if c := f.next(deadline); !errors.Is(c.err, fs.ErrNotExist) || c.config.Log.Level != slog.LevelWarn {
			f.t.Errorf("deleted: got %v, %v", c.config.Log, c.err)
		}
		f.began = time.Now()
		f.write(f.file, loud)
	},
}

// deadline is for the event itself to come on a busy machine. What was promised is asserted in fake time.
const deadline = 20 * time.Second

// Red when: pollEvery is 2 s, or look never reports unsettled (the change then waits for the next poll).
func TestWatchByPollWithin2s(t *testing.T) {
	for name, change := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer synctest.Wait()
				defer cancel()
				f := watching(t, ctx, withoutEvents)
				time.Sleep(300 * time.Millisecond) // of the bubble: any phase of the poll
				f.began = time.Now()
				change(f)
				c := f.next(deadline)
				if c.err != nil || c.config.Log.Level != slog.LevelDebug {
					t.Fatalf("got %v, %v", c.config.Log, c.err)
				}
				if took := c.at.Sub(f.began); took >= 2*time.Second {
					t.Errorf("took %s", took)
				}
				f.nothing("after one change")
			})
		})
	}
}

func withoutEvents(w *Watcher) {
	w.events = func() (*fsnotify.Watcher, error) { return nil, errors.New("too many open files") }
}

// nothing lets time of the bubble pass, in which no call may come.
func (f *watched) nothing(when string) {
	f.t.Helper()
	time.Sleep(5 * time.Second)
	if len(f.calls) > 0 {
		c := <-f.calls
		f.t.Errorf("%s: a call with %v, %v", when, c.config.Log, c.err)
	}
}

// Red when: Run does not call follow, or follow takes the directory of the name only (rewritten where the link leads).
func TestWatchByEventsAlone(t *testing.T) {
	for name, change := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ready := make(chan struct{})
			f := watching(t, ctx, func(w *Watcher) {
				w.poll = time.Hour
				w.events = func() (*fsnotify.Watcher, error) { defer close(ready); return fsnotify.NewWatcher() }
			})
			<-ready
			change(f)
			if c := f.next(deadline); c.err != nil || c.config.Log.Level != slog.LevelDebug {
				t.Fatalf("got %v, %v", c.config.Log, c.err)
			}
		})
	}
}

// Red when: reload sets w.config before Parse succeeded, or a call is made for each look instead of each content.
func TestWatchKeepsTheGoodOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		f := watching(t, ctx, withoutEvents)

		f.write(f.file, bad)
		c := f.next(deadline)
		if c.err == nil || !strings.Contains(c.err.Error(), `config.yaml:1:7: log.levle: unknown key; did you mean "level"?`) {
			t.Errorf("bad file: error %v", c.err)
		}
		if c.config.Log.Level != slog.LevelWarn {
			t.Errorf("bad file: the good configuration is lost: %v", c.config.Log)
		}
		f.nothing("after a bad file")

		f.write(f.file, "")
		if c := f.next(deadline); c.err == nil {
			t.Errorf("empty file taken for a configuration: %v", c.config)
		}

		f.write(f.file, quiet)
		if c := f.next(deadline); c.err != nil || c.config.Log.Level != slog.LevelWarn {
			t.Errorf("the good file again: %v, %v", c.config.Log, c.err)
		}

		f.write(f.file, "# a comment\n"+quiet)
		f.nothing("after a change that means nothing")

		f.must(os.Remove(f.file))
		f.must(os.Mkdir(f.file, 0o755))
		if c := f.next(deadline); c.err == nil || c.config.Log.Level != slog.LevelWarn {
			t.Errorf("a directory in its place: %v, %v", c.config.Log, c.err)
		}
	})
}

// Red when: settle is 0: the first half, a valid file, is then applied.
func TestWatchWaitsForTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		f := watching(t, ctx, withoutEvents)
		time.Sleep(950 * time.Millisecond)
		half := strings.Index(loud, "\n") + 1
		f.write(f.file, loud[:half]) // the poll at 1 s finds this
		time.Sleep(150 * time.Millisecond)
		f.write(f.file, loud)
		c := f.next(deadline)
		if c.err != nil || len(c.config.Upstreams[DefaultUpstream].Endpoints) != 1 {
			t.Errorf("half of a file was applied: %v, %v", c.config.Upstreams, c.err)
		}
		f.nothing("after a slow writer")
	})
}

// Red when: paths leaves out resolv.confs, or reload does not call remember.
func TestWatchResolvConf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		dir := t.TempDir()
		f := &watched{t: t, dir: dir, file: filepath.Join(dir, "config.yaml"), calls: make(chan call, 100)}
		one, two := filepath.Join(dir, "one.conf"), filepath.Join(dir, "two.conf")
		using := func(path string) string { return "upstreams: {default: {resolvConf: " + path + "}}\n" }
		f.write(one, "nameserver 192.0.2.1\n")
		f.write(two, "nameserver 192.0.2.1\n")
		f.write(f.file, using(one))
		f.run(ctx, f.file, using(one), withoutEvents)
		f.nothing("at first")

		changed := func(path, text, want string) {
			t.Helper()
			f.began = time.Now()
			f.write(path, text)
			c := f.next(deadline)
			if c.err != nil || c.config.Upstreams[DefaultUpstream].ResolvConf != want || c.at.Sub(f.began) >= 2*time.Second {
				t.Errorf("%s changed: %v, %v after %s", path, c.config.Upstreams, c.err, c.at.Sub(f.began))
			}
			f.nothing("after " + path)
		}
		changed(one, "nameserver 192.0.2.2\n", one)
		f.write(two, "nameserver 192.0.2.3\n")
		f.nothing("a resolv.conf that is not in use")
		changed(f.file, using(two), two)
		changed(two, "nameserver 192.0.2.4\n", two)
		f.write(one, "")
		f.nothing("a resolv.conf that is in use no more")
	})
}

// Red when: NewWatcher takes the file as it is for the state that was handled.
func TestWatchSeesWhatChangedBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		f := &watched{t: t, calls: make(chan call, 100)}
		f.file = filepath.Join(t.TempDir(), "config.yaml")
		f.write(f.file, loud)
		f.began = time.Now()
		f.run(ctx, f.file, quiet, withoutEvents)
		if c := f.next(deadline); c.err != nil || c.config.Log.Level != slog.LevelDebug || c.at.Sub(f.began) > time.Second {
			t.Errorf("got %v, %v after %s", c.config.Log, c.err, c.at.Sub(f.began))
		}
	})
}

// Red when: Run ignores w.set.
func TestWatchKeepsAssignments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		f := watching(t, ctx, func(w *Watcher) { withoutEvents(w); w.set = []string{"log.format=json"} })
		f.write(f.file, loud)
		if c := f.next(deadline); c.err != nil || c.config.Log != (Log{slog.LevelDebug, LogJSON}) {
			t.Errorf("got %v, %v", c.config.Log, c.err)
		}
	})
}

// Red when: Run does not return ctx's error.
func TestWatchEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := NewWatcher("", nil, nil, Default(), slog.New(slog.DiscardHandler))
	if err := w.Run(ctx, func(Config, error) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
