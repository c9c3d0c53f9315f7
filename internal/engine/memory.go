package engine

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

// spare is what an engine takes beside a dataset: code, threads, buffers.
const spare = 64 << 20

// Room tells how much memory an engine may take that is to hold a dataset which took that much in its
// master. It may have what is free, so that nobody else is driven out of it; where that is not enough, with
// a quarter to spare for what differs from allocator to allocator, the error is a *MemoryError.
func Room(dataset int64) (most int64, err error) {
	free, err := free("/")
	if err != nil {
		return 0, fmt.Errorf("find out how much memory is free: %w", err)
	}
	if need := dataset + dataset/4 + spare; need > free {
		return 0, &MemoryError{Dataset: dataset, Need: need, Free: free}
	}
	return free, nil
}

// A MemoryError says that a dataset is larger than the memory that is free.
type MemoryError struct{ Dataset, Need, Free int64 }

func (e *MemoryError) Error() string {
	return fmt.Sprintf("the dataset took %s in its master, an engine with it may take %s, and %s are free here for this process and its children",
		size(e.Dataset), size(e.Need), size(e.Free))
}

// Hint says what to do about it.
func (e *MemoryError) Hint() string {
	return "do it on a host with more memory: `offloader verify --boot --archive URL` needs the archive only. Of a service, MemoryMax bounds it too"
}

func size(n int64) string { return humanize.IBytes(uint64(max(0, n))) }

// free is how much memory a process of ours can take without driving others out: what the machine has, and
// what the control groups leave that we are in. root is that of the file system.
func free(root string) (int64, error) {
	most, err := ofMachine(root)
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return most, nil //nolint:nilerr // a system without control groups
	}
	for line := range strings.Lines(string(text)) {
		group, unified := strings.CutPrefix(strings.TrimSpace(line), "0::") // cgroups(7): version 2
		if !unified {
			continue
		}
		for ; ; group = path.Dir(group) {
			if left, bounded := ofGroup(filepath.Join(root, "sys/fs/cgroup", group)); bounded {
				most = min(most, left)
			}
			if group == "/" || group == "." {
				break
			}
		}
	}
	return max(0, most), nil
}

// ofMachine is what the kernel takes for available. Where /proc doesn't show it, as in a service with ProcSubset=pid,
// it is what nobody uses for anything.
func ofMachine(root string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(root, "proc/meminfo"))
	if err == nil {
		if kib, ok := field(string(text), "MemAvailable:"); ok {
			return kib << 10, nil
		}
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, err
	}
	return int64(info.Freeram+info.Bufferram) * int64(info.Unit), nil
}

// ofGroup is what a control group leaves. Pages of files that nobody has just used make room by themselves.
func ofGroup(dir string) (left int64, bounded bool) {
	most, err := number(filepath.Join(dir, "memory.max"))
	if err != nil {
		return 0, false // "max", or a group without that bound
	}
	used, err := number(filepath.Join(dir, "memory.current"))
	if err != nil {
		return most, true
	}
	if text, err := os.ReadFile(filepath.Join(dir, "memory.stat")); err == nil {
		if idle, ok := field(string(text), "inactive_file"); ok {
			used -= idle
		}
	}
	return most - max(0, used), true
}

func number(file string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// field is the number behind a name at the beginning of a line.
func field(text, name string) (int64, bool) {
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == name {
			n, err := strconv.ParseInt(words[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
