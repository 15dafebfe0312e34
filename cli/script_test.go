package cli

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/dnslet/dnslet/lab/netns"
)

// tests runs the tests, in a user namespace where this user cannot make network namespaces otherwise.
type tests struct{ m *testing.M }

func (t tests) Run() int { return netns.Main(t.m) }

// TestMain makes this very binary the program dnslet for scripts and for the tests that start an agent.
func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){
		"dnslet": func() { os.Exit(Main(os.Args, os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// Each script in testdata/script is a story of the command line. What a script cannot do by itself:
//
//	exits N ARGS...        runs dnslet and wants that exit code
//	taken VAR              takes a port on loopback and puts IP:PORT into $VAR
//	authority VAR          serves DNS on 127.0.0.1 (everything is 192.0.2.1) and puts IP:PORT into $VAR
//	free VAR               puts an IP:PORT that nobody has at the moment into $VAR
//	background ARGS...     starts dnslet and waits until it serves HTTP at $admin
//	terminate              ends what background started, and wants 0
//	lookup ADDR NAME WANT  asks and wants that address
//
// Red when: the command, flag, word or exit code that a script names changes.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "taken": taken, "authority": authority, "free": free,
			"background": background, "terminate": terminate, "lookup": lookup,
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("evil", "\x1b[2J")
			return nil
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("dnslet", args[1:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("dnslet %s: exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// ours is a loopback address that this process has for itself, and any port: on 127.0.0.1 the port that a script was told
// to be free may be another test's by the time it is used.
func ours() string { return fmt.Sprintf("127.83.%d.%d:0", os.Getpid()>>8&255, os.Getpid()&255) }

func taken(ts *testscript.TestScript, neg bool, args []string) {
	ln, err := net.Listen("tcp", ours())
	ts.Check(err)
	ts.Defer(func() { ln.Close() })
	ts.Setenv(args[0], ln.Addr().String())
}

func free(ts *testscript.TestScript, neg bool, args []string) {
	ln, err := net.Listen("tcp", ours())
	ts.Check(err)
	ts.Setenv(args[0], ln.Addr().String())
	ts.Check(ln.Close())
}

func authority(ts *testscript.TestScript, neg bool, args []string) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	ts.Check(err)
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)}}
		}
		w.WriteMsg(r)
	})}
	go s.ActivateAndServe()
	ts.Defer(func() { pc.Close() })
	ts.Setenv(args[0], pc.LocalAddr().String())
}

// started are the agents that scripts have running, by the script's directory. Scripts run in parallel.
var started sync.Map

func background(ts *testscript.TestScript, neg bool, args []string) {
	cmd := exec.Command("dnslet", args...)
	stderr, err := os.Create(ts.MkAbs("agent.log"))
	ts.Check(err)
	cmd.Stderr, cmd.Dir = stderr, ts.Getenv("WORK")
	ts.Check(cmd.Start())
	ts.Check(stderr.Close())
	ts.Defer(func() { cmd.Process.Kill(); cmd.Wait() })
	started.Store(ts.Getenv("WORK"), cmd)
	within := time.Now().Add(20 * time.Second)
	for {
		out, err := exec.Command("dnslet", "status", "-o", "json", "--admin", ts.Getenv("admin")).Output()
		if err == nil && strings.Contains(string(out), `"ready": true`) {
			return
		}
		if time.Now().After(within) {
			ts.Fatalf("the agent is not ready within 20 s:\n%s", ts.ReadFile("agent.log"))
		}
	}
}

func terminate(ts *testscript.TestScript, neg bool, args []string) {
	v, ok := started.Load(ts.Getenv("WORK"))
	if !ok {
		ts.Fatalf("no agent was started")
	}
	cmd := v.(*exec.Cmd)
	ts.Check(cmd.Process.Signal(os.Interrupt))
	ts.Check(cmd.Wait())
}

func lookup(ts *testscript.TestScript, neg bool, args []string) {
	r, _, err := new(dns.Client).Exchange(new(dns.Msg).SetQuestion(args[1], dns.TypeA), args[0])
	ts.Check(err)
	if len(r.Answer) != 1 || !strings.HasSuffix(r.Answer[0].String(), "\t"+args[2]) {
		ts.Fatalf("%s is %v, want %s", args[1], r.Answer, args[2])
	}
}

// Red when: obey stops at the first signal only.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	var mute atomic.Bool
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	upstream := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		if !mute.Load() {
			w.WriteMsg(new(dns.Msg).SetReply(q))
		}
	})}
	go upstream.ActivateAndServe()

	log, logged, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("dnslet", "agent", "--set", "listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0", "--set", "upstream="+pc.LocalAddr().String())
	cmd.Stderr = logged
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	logged.Close()
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(log)
	until := func(what string) string {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), what) {
				return lines.Text()
			}
		}
		t.Fatalf("the log ended without %q", what)
		return ""
	}
	_, addr, _ := strings.Cut(until("msg=listening"), "addrs=[")
	addr, _, _ = strings.Cut(addr, "]")
	until("msg=ready")
	// A question that nobody answers keeps the drain waiting for 1.8 s.
	mute.Store(true)
	conn, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	question, err := new(dns.Msg).SetQuestion("waits.example.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(question); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, what := range []string{`msg="agent stops"`, "second signal"} {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		until(what)
	}
	err = cmd.Wait()
	if d := time.Since(began); cmd.ProcessState.ExitCode() != ExitFindings || d > 1500*time.Millisecond {
		t.Errorf("ended after %v with %v", d, err)
	}
}
