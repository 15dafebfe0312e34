package node

import (
	"math"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

const (
	v2Mount = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
	v1Mount = "30 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
		"31 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
		"32 25 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
)

func machine(files ...string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for i := 0; i < len(files); i += 2 {
		fsys[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
	}
	return fsys
}

// Red when: upwards stops at the group itself, or trusts a group that the mount does not show.
func TestCgroupLimits(t *testing.T) {
	inf, none := math.Inf(1), int64(math.MaxInt64)
	tests := []struct {
		name string
		fs   fstest.MapFS
		want CgroupLimits
	}{
		{"no limits", machine("proc/self/mountinfo", v2Mount, "proc/self/cgroup", "0::/\n"), CgroupLimits{inf, none}},
		{"no control groups at all", machine("proc/self/mountinfo", "", "proc/self/cgroup", ""), CgroupLimits{inf, none}},
		{"v2, the tightest of the group and those above", machine(
			"proc/self/mountinfo", v2Mount, "proc/self/cgroup", "0::/kubepods/pod1/c1\n",
			"sys/fs/cgroup/kubepods/pod1/c1/cpu.max", "max 100000\n",
			"sys/fs/cgroup/kubepods/pod1/c1/memory.max", "max\n",
			"sys/fs/cgroup/kubepods/pod1/cpu.max", "150000 100000\n",
			"sys/fs/cgroup/kubepods/pod1/memory.max", "67108864\n",
			"sys/fs/cgroup/kubepods/cpu.max", "400000 100000\n",
			"sys/fs/cgroup/kubepods/memory.max", "1073741824\n",
		), CgroupLimits{1.5, 64 << 20}},
		{"v2 in a namespace of its own", machine(
			"proc/self/mountinfo", v2Mount, "proc/self/cgroup", "0::/\n",
			"sys/fs/cgroup/cpu.max", "50000 100000\n", "sys/fs/cgroup/memory.max", "33554432\n",
		), CgroupLimits{0.5, 32 << 20}},
		{"v2, the mount begins at our group", machine(
			"proc/self/mountinfo", strings.Replace(v2Mount, " / /sys", " /kubepods/pod1 /sys", 1), "proc/self/cgroup", "0::/kubepods/pod1/c1\n",
			"sys/fs/cgroup/cpu.max", "200000 100000\n", "sys/fs/cgroup/c1/cpu.max", "100000 100000\n",
		), CgroupLimits{1, none}},
		{"v2, the group is outside of the mount", machine(
			"proc/self/mountinfo", strings.Replace(v2Mount, " / /sys", " /kubepods/pod1 /sys", 1), "proc/self/cgroup", "0::/kubepods/pod10/c1\n",
			"sys/fs/cgroup/cpu.max", "200000 100000\n", "sys/fs/cgroup/0/c1/cpu.max", "100000 100000\n",
		), CgroupLimits{2, none}},
		{"v1", machine(
			"proc/self/mountinfo", v1Mount, "proc/self/cgroup", "4:pids:/x\n3:cpu,cpuacct:/k/c1\n2:memory:/k/c1\n",
			"sys/fs/cgroup/cpu,cpuacct/k/c1/cpu.cfs_quota_us", "-1\n", "sys/fs/cgroup/cpu,cpuacct/k/c1/cpu.cfs_period_us", "100000\n",
			"sys/fs/cgroup/cpu,cpuacct/k/cpu.cfs_quota_us", "25000\n", "sys/fs/cgroup/cpu,cpuacct/k/cpu.cfs_period_us", "100000\n",
			"sys/fs/cgroup/memory/k/c1/memory.limit_in_bytes", "9223372036854771712\n",
			"sys/fs/cgroup/memory/k/memory.limit_in_bytes", "134217728\n",
		), CgroupLimits{0.25, 128 << 20}},
		{"nonsense is no limit", machine(
			"proc/self/mountinfo", v2Mount, "proc/self/cgroup", "0::/\nx\n",
			"sys/fs/cgroup/cpu.max", "0 0\n", "sys/fs/cgroup/memory.max", "-5\n",
		), CgroupLimits{inf, none}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := cgroupLimits(tt.fs)
			if err != nil || got != tt.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}

// Red when: a limit that could not be read is reported as none.
func TestCgroupLimitsUnreadable(t *testing.T) {
	if l, err := cgroupLimits(fstest.MapFS{}); err == nil {
		t.Errorf("got %+v from a machine without /proc", l)
	}
}

func TestReadCgroupLimitsHere(t *testing.T) {
	l, err := ReadCgroupLimits()
	if err != nil {
		t.Fatal(err)
	}
	if !(l.CPUs > 0) || l.Memory <= 0 {
		t.Errorf("limits of this process are %+v", l)
	}
}

// Red when: the comparison in InUserNamespace is turned round.
func TestInUserNamespace(t *testing.T) {
	got, err := InUserNamespace()
	if err != nil {
		t.Fatal(err)
	}
	// The first user namespace has a fixed inode, PROC_USER_INIT_INO in include/linux/proc_ns.h.
	link, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	if want := link != "user:[4026531837]"; got != want {
		t.Errorf("got %v in %s", got, link)
	}
}

func TestKernelRelease(t *testing.T) {
	got, err := KernelRelease()
	want, rerr := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil || rerr != nil || got != strings.TrimSpace(string(want)) {
		t.Errorf("got %q, %v, want %q, %v", got, err, want, rerr)
	}
}
