package cgroup

import "strconv"

// StartTime is when a process started, in clock ticks after boot (field 22 of
// proc(5)'s /proc/PID/stat): with its PID it names one process for ever. 0: it is gone.
func StartTime(pid int) uint64 {
	st, err := readStat("/proc", pid)
	if err != nil {
		return 0
	}
	ticks, err := strconv.ParseUint(st.start, 10, 64)
	if err != nil {
		return 0
	}
	return ticks
}
