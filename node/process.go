package node

// CgroupLimits is what the control groups of this process allow it. A DaemonSet's own limits appear here, and what the
// kubelet or systemd put around them.
type CgroupLimits struct {
	CPUs   float64 // CPU time per time; +Inf: no quota
	Memory int64   // bytes; math.MaxInt64: no limit
}
