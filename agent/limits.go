package agent

import (
	"context"
	"math"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/dnslet/dnslet/config"
	"github.com/dnslet/dnslet/node"
	"github.com/dnslet/dnslet/resolver"
)

// processLimits is what this process was given or has given itself.
type processLimits struct {
	memory int64 // Go's soft limit in bytes; 0: none
	files  uint64
}

// What memory is for, beside the cache and what the resolver holds for clients (resolver.Limits.Bytes).
const (
	baseMemory    = 40 << 20 // the program, its runtime and what HTTP needs
	gcShareOfHeap = 4        // a quarter on top, so that collecting does not become the work
)

// memoryCeiling is the most memory that cfg lets the agent need.
func memoryCeiling(cfg config.Config) int64 {
	need := baseMemory + cfg.Cache.Size + limitsOf(cfg.Limits).Bytes()
	return need + need/gcShareOfHeap
}

// ownFiles is about how many descriptors the agent has for itself: listeners, HTTP, netlink, probes, and logs.
const ownFiles = 64

// fit lowers l so that clients' connections leave descriptors for asking upstream, which takes up to a quarter of files
// (upstream.DefaultConfig). An agent without any would go on answering its prober, and every miss with SERVFAIL: worse than
// none. files 0: not known.
func fit(l resolver.Limits, files uint64) resolver.Limits {
	if files == 0 {
		return l
	}
	room := max(1, int(min(files, math.MaxInt32))/2-ownFiles/2)
	l.TCPConns = min(l.TCPConns, room)
	l.TCPPerSource = min(l.TCPPerSource, l.TCPConns)
	return l
}

// setLimits takes what the machine allows and tells the runtime what the configuration allows. Nothing here is a reason
// not to start.
func (a *Agent) setLimits(cfg config.Config) {
	var err error
	if a.kernel, err = node.KernelRelease(); err != nil {
		a.log.Debug("kernel", "err", err)
	}
	if a.limits.files, err = raiseFileLimit(); err != nil {
		a.log.Warn("limit of open files", "err", err)
	}
	if l := fit(limitsOf(cfg.Limits), a.limits.files); l.TCPConns < cfg.Limits.TCPConnections {
		a.log.Warn("the limit of open files allows fewer TCP connections than configured: raise it (ulimit -n, LimitNOFILE)",
			"limit", a.limits.files, "connections", l.TCPConns, "configured", cfg.Limits.TCPConnections)
	}
	// Without a limit the collector lets the heap grow to twice what is live, and a cache lives long. An operator's own
	// GOMEMLIMIT counts more than our estimate.
	if a.opts.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryCeiling(cfg))
	}
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		a.limits.memory = limit
	}
	if c, err := node.ReadCgroupLimits(); err == nil && c.Memory != math.MaxInt64 && c.Memory < memoryCeiling(cfg) {
		a.log.Warn("the control group allows less memory than the configuration may need: expect an OOM kill under load",
			"limit", c.Memory, "need", memoryCeiling(cfg))
	}
}

// setProcs lets every reader have a thread to run Go code on, and two more for all else, whatever a CPU quota says: a
// reader that waits for its turn behind the others is a pod that waits.
func (a *Agent) setProcs(addrs int) {
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), addrs*resolver.DefaultReaders()+2))
}

// watch tells the service manager that the agent is alive, but only while every reader makes progress: a hung agent is
// restarted, and until then the kernel sends its questions to cluster DNS.
func (a *Agent) watch(ctx context.Context) {
	every := a.notify.interval()
	if every == 0 {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := a.server.Progress(); err != nil {
				a.log.Error("no progress, the service manager is not told that all is well", "err", err)
				continue
			}
			a.tell(a.notify.alive())
		}
	}
}
