package node

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// InUserNamespace reports whether this process is in a user namespace other than the machine's first: root in it may
// make namespaces and rules of its own, and is nobody outside.
func InUserNamespace() (bool, error) {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false, fmt.Errorf("cannot read the user namespace: %w", err)
	}
	f := strings.Fields(string(b))
	first := len(f) == 3 && f[0] == "0" && f[1] == "0" && f[2] == strconv.FormatUint(math.MaxUint32, 10)
	return !first, nil
}

// ReadCgroupLimits returns the limits of this process's control group and of those above it that can be seen.
func ReadCgroupLimits() (CgroupLimits, error) { return cgroupLimits(os.DirFS("/")) }

// mount is a mounted control group hierarchy: its directory is that of the group root.
type mount struct{ root, dir string }

// cgroupLimits reads below root, the machine's "/".
func cgroupLimits(root fs.FS) (CgroupLimits, error) {
	l := CgroupLimits{CPUs: math.Inf(1), Memory: math.MaxInt64}
	mounts, err := cgroupMounts(root)
	if err != nil {
		return l, err
	}
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return l, fmt.Errorf("cannot read the control group: %w", err)
	}
	// Each line is "ID:CONTROLLERS:GROUP"; ID 0 without controllers is version 2. proc(5), cgroups(7).
	for line := range strings.Lines(string(groups)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		for _, controller := range strings.Split(f[1], ",") {
			m, ok := mounts[controller]
			if !ok {
				continue
			}
			for _, dir := range m.upwards(f[2]) {
				l.narrow(root, dir, controller)
			}
		}
	}
	return l, nil
}

// cgroupMounts returns the hierarchies by controller; version 2 is "".
func cgroupMounts(root fs.FS) (map[string]mount, error) {
	b, err := fs.ReadFile(root, "proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot read the mounts: %w", err)
	}
	mounts := map[string]mount{}
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		// "36 35 98:0 ROOT DIR OPTIONS [TAGS...] - TYPE SOURCE SUPER_OPTIONS"; proc(5).
		before, after, ok := strings.Cut(sc.Text(), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 5 || len(g) < 3 {
			continue
		}
		m := mount{root: f[3], dir: strings.TrimPrefix(f[4], "/")}
		switch g[0] {
		case "cgroup2":
			mounts[""] = m
		case "cgroup":
			for _, o := range strings.Split(g[2], ",") {
				if o == "cpu" || o == "memory" {
					mounts[o] = m
				}
			}
		}
	}
	return mounts, nil
}

// upwards returns the directories of group and of the groups above it, as far as the mount shows them. In a container
// without a cgroup namespace the group is named as the host sees it, and the mount begins at it.
func (m mount) upwards(group string) []string {
	rel, ok := strings.CutPrefix(path.Clean("/"+group), strings.TrimSuffix(m.root, "/"))
	if !ok || rel != "" && rel[0] != '/' {
		rel = ""
	}
	var dirs []string
	for d := strings.TrimPrefix(rel, "/"); d != "" && d != "."; d = path.Dir(d) {
		dirs = append(dirs, path.Join(m.dir, d))
	}
	return append(dirs, m.dir)
}

// narrow lowers l to the limits of the group in dir. A file that is not there sets no limit: the root group has none.
func (l *CgroupLimits) narrow(root fs.FS, dir, controller string) {
	read := func(name string) []string {
		b, err := fs.ReadFile(root, path.Join(dir, name))
		if err != nil {
			return nil
		}
		return strings.Fields(string(b))
	}
	number := func(f []string, i int) (float64, error) {
		if i >= len(f) {
			return 0, errors.New("no such field")
		}
		return strconv.ParseFloat(f[i], 64) // "max" is an error: no limit
	}
	quota := func(quota, period float64) {
		if quota > 0 && period > 0 {
			l.CPUs = min(l.CPUs, quota/period)
		}
	}
	memory := func(f []string, err error) {
		if err != nil || len(f) == 0 {
			return
		}
		if n, err := strconv.ParseInt(f[0], 10, 64); err == nil && n > 0 {
			l.Memory = min(l.Memory, n)
		}
	}
	switch controller {
	case "": // "QUOTA|max PERIOD"
		f := read("cpu.max")
		q, err1 := number(f, 0)
		p, err2 := number(f, 1)
		if err1 == nil && err2 == nil {
			quota(q, p)
		}
		memory(read("memory.max"), nil)
	case "cpu": // -1: no quota
		q, err1 := number(read("cpu.cfs_quota_us"), 0)
		p, err2 := number(read("cpu.cfs_period_us"), 0)
		if err1 == nil && err2 == nil {
			quota(q, p)
		}
	case "memory": // "no limit" is the largest multiple of the page size
		if f := read("memory.limit_in_bytes"); len(f) == 1 {
			if n, err := strconv.ParseInt(f[0], 10, 64); err == nil && n < math.MaxInt64-1<<20 {
				memory(f, nil)
			}
		}
	}
}
