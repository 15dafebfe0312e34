package agent

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dnslet/dnslet/api"
)

// configMap is a directory that changes as the kubelet changes a mounted ConfigMap: files are links into ..data, which is a
// link to a directory that is replaced as a whole.
type configMap struct {
	t   *testing.T
	dir string
	n   int
}

func (c *configMap) file() string { return filepath.Join(c.dir, "config.yaml") }

func (c *configMap) write(text string) {
	c.t.Helper()
	c.n++
	version := fmt.Sprintf("..version_%d", c.n)
	must := func(err error) {
		c.t.Helper()
		if err != nil {
			c.t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(c.dir, version), 0o755))
	must(os.WriteFile(filepath.Join(c.dir, version, "config.yaml"), []byte(text), 0o644))
	must(os.Symlink(version, filepath.Join(c.dir, "..data_tmp")))
	must(os.Rename(filepath.Join(c.dir, "..data_tmp"), filepath.Join(c.dir, "..data")))
	if c.n == 1 {
		must(os.Symlink("..data/config.yaml", c.file()))
	} else {
		must(os.RemoveAll(filepath.Join(c.dir, fmt.Sprintf("..version_%d", c.n-1))))
	}
}

func zoneConfig(up *authority, address string) string {
	return fmt.Sprintf(`
listen: [127.0.0.1:0]
upstreams:
  default: {endpoints: [%s]}
zones:
- zone: corp.example
  hosts:
  - {name: db.corp.example, addresses: [%s]}
`, up.addr, address)
}

// Red when: applyConfig does not call SetZones, or a bad file replaces the good one.
func TestConfigMapIsFollowedAndABadOneRefused(t *testing.T) {
	up := newAuthority(t)
	cm := &configMap{t: t, dir: t.TempDir()}
	cm.write(zoneConfig(up, "198.51.100.1"))
	r := start(t, Options{File: cm.file()})
	if got := r.ask("udp", "db.corp.example."); got != "198.51.100.1" {
		t.Fatalf("static name: %s", got)
	}
	cm.write(zoneConfig(up, "198.51.100.2"))
	within(t, 2*time.Second, "the change of the ConfigMap is in force", func() bool { return r.ask("udp", "db.corp.example.") == "198.51.100.2" })
	within(t, time.Second, "the reload is counted", func() bool { return r.status().Config.Reloads == 1 })

	cm.write(strings.Replace(zoneConfig(up, "198.51.100.3"), "hosts:", "host:", 1))
	within(t, 2*time.Second, "the bad file is reported", func() bool { return !r.status().Config.OK })
	c := r.status().Config
	if c.State != api.Warn || c.Failures != 1 || !strings.Contains(c.Error, `did you mean "hosts"?`) || !strings.Contains(c.Error, "config.yaml:") {
		t.Errorf("a refused file shows as %+v", c)
	}
	if got := r.ask("udp", "db.corp.example."); got != "198.51.100.2" {
		t.Errorf("after a bad file the old one does not serve: %s", got)
	}
	if _, body := r.get("/metrics"); !strings.Contains(body, "\ndnslet_config_last_reload_successful 0\n") || !strings.Contains(body, `dnslet_config_reloads_total{result="refused"} 1`) {
		t.Error("/metrics does not show the refused file")
	}
	if !strings.Contains(r.log.String(), "configuration refused, the one before is still in force") {
		t.Error("the log does not show the refused file")
	}

	cm.write(zoneConfig(up, "198.51.100.4") + "cache: {size: 64MiB}\n")
	within(t, 2*time.Second, "the good file is in force", func() bool { return r.ask("udp", "db.corp.example.") == "198.51.100.4" })
	within(t, time.Second, "what waits for a restart is reported", func() bool {
		c := r.status().Config
		return c.OK && len(c.RestartFor) == 1 && c.RestartFor[0] == "cache.size"
	})
	if budget := r.status().Cache.Budget; budget != 32<<20 {
		t.Errorf("the cache's budget changed to %d without a restart", budget)
	}
}

// Red when: apply makes a new group for an upstream that only has other endpoints (its counters begin anew), or leaves
// the endpoints as they were.
func TestEndpointsChangeUnderALivingGroup(t *testing.T) {
	one, two := newAuthority(t), newAuthority(t)
	two.add("moved.example.", netip.MustParseAddr("203.0.113.2"))
	cm := &configMap{t: t, dir: t.TempDir()}
	cfg := func(u *authority) string {
		return fmt.Sprintf("listen: [127.0.0.1:0]\nupstreams: {default: {endpoints: [%s]}}\n", u.addr)
	}
	cm.write(cfg(one))
	r := start(t, Options{File: cm.file()})
	if got := r.ask("udp", "kept.example."); got != "192.0.2.1" {
		t.Fatal(got)
	}
	before, _ := r.upstreams.get("default")
	asked := before.group.Snapshot().Exchanges
	cm.write(cfg(two))
	i := 0
	within(t, 2*time.Second, "the new endpoint is asked", func() bool {
		i++
		r.ask("udp", fmt.Sprintf("n%d.example.", i))
		return two.asked.Load() > 0 && r.status().Config.Reloads == 1
	})
	if got := r.ask("udp", "moved.example."); got != "203.0.113.2" {
		t.Errorf("the old endpoint still answers: %s", got)
	}
	after, _ := r.upstreams.get("default")
	if after.group != before.group || after.group.Snapshot().Exchanges < asked {
		t.Error("the group did not survive the change of its endpoints")
	}
}

// Red when: the resolv.conf is read once only, or a file without nameservers empties the group.
func TestResolvConfIsFollowed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("nameserver 127.0.0.253\n")
	r := begin(t, Options{Set: []string{"listen=127.0.0.1:0", "upstreams.default.resolvConf=" + file}})
	within(t, 5*time.Second, "serving", func() bool { return r.serving.Load() })
	endpoints := func() string {
		var out []string
		for _, e := range r.status().Upstreams[0].Endpoints {
			out = append(out, e.Addr)
		}
		return strings.Join(out, " ")
	}
	if got := endpoints(); got != "127.0.0.253:53" {
		t.Fatalf("endpoints: %s", got)
	}
	write("nameserver 127.0.0.253\nnameserver 127.0.0.254\n")
	within(t, 2*time.Second, "the new nameserver is there", func() bool { return endpoints() == "127.0.0.253:53 127.0.0.254:53" })
	write("# nobody\n")
	within(t, 2*time.Second, "the empty file is reported", func() bool { return len(r.status().Upstreams[0].Notes) == 1 })
	if got := endpoints(); got != "127.0.0.253:53 127.0.0.254:53" {
		t.Errorf("a resolv.conf without nameservers left %q", got)
	}
}

// Red when: changed tells READY although the agent is not ready yet.
func TestReloadBeforeReadyDoesNotTellReady(t *testing.T) {
	up := newAuthority(t)
	up.mute.Store(true)
	cm := &configMap{t: t, dir: t.TempDir()}
	cm.write(zoneConfig(up, "198.51.100.1"))
	sock := filepath.Join(t.TempDir(), "notify")
	m := manager(t, sock)
	r := begin(t, Options{File: cm.file(), Getenv: env("NOTIFY_SOCKET", sock)})
	within(t, 5*time.Second, "serving", func() bool { return r.serving.Load() })
	cm.write(zoneConfig(up, "198.51.100.2"))
	within(t, 2*time.Second, "reloaded", func() bool { return r.status().Config.Reloads == 1 })
	m.SetReadDeadline(time.Now())
	if n, err := m.Read(make([]byte, 512)); err == nil {
		t.Errorf("the service manager heard %d bytes of an agent that is not ready", n)
	}
	up.mute.Store(false)
	<-r.WhenReady()
	if got := heard(t, m); got[0] != "READY=1" {
		t.Errorf("heard %q, want READY=1", got)
	}
}

// Red when: RestartFor is counted from the file before instead of from what the process began with.
func TestAChangeTakenBackNeedsNoRestart(t *testing.T) {
	up := newAuthority(t)
	cm := &configMap{t: t, dir: t.TempDir()}
	cm.write(zoneConfig(up, "198.51.100.1"))
	r := start(t, Options{File: cm.file()})
	cm.write(zoneConfig(up, "198.51.100.1") + "cache: {size: 64MiB}\n")
	within(t, 2*time.Second, "reported", func() bool { return len(r.status().Config.RestartFor) == 1 })
	cm.write(zoneConfig(up, "198.51.100.1"))
	within(t, 2*time.Second, "taken back", func() bool { c := r.status().Config; return len(c.RestartFor) == 0 && c.Reloads == 2 })
}
