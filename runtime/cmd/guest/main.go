// Guest is the program of the sandboxes in tests/integration/runtime. Alone it waits until it is killed; `guest reach` does
// to process 1 what another process of its container can, says of each call what came of it, and kills it last of all.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	first    = 1
	ownerPID = 1 // F_OWNER_PID
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "reach" {
		reach()
		return
	}
	signal.Ignore() // Go handles most signals, and what an init process handles reaches it, here as on Linux
	for {
		if err := syscall.Pause(); err != nil && err != syscall.EINTR {
			panic(err)
		}
	}
}

func reach() {
	limit := unix.Rlimit{}
	say("prlimit", unix.Prlimit(first, unix.RLIMIT_NOFILE, &limit, nil))
	say("setpriority", unix.Setpriority(unix.PRIO_PROCESS, first, 19))
	var cpus unix.CPUSet
	cpus.Set(0)
	say("sched_setaffinity", unix.SchedSetaffinity(first, &cpus))
	say("sigio", ownedBy(ownerPID, first))
	say("tgkill", unix.Tgkill(first, first, unix.SIGKILL))
	say("queue", queue(unix.SIGKILL))
	handle, err := unix.PidfdOpen(first, 0)
	say("pidfd_open", err)
	say("pidfd_send_signal", unix.PidfdSendSignal(handle, unix.SIGKILL, nil, 0))
	folder, err := unix.Open("/proc/1", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	say("folder", err)
	say("folder_send_signal", unix.PidfdSendSignal(folder, unix.SIGKILL, nil, 0))
	for number := syscall.Signal(1); number <= 64; number++ {
		if err := syscall.Kill(first, number); err != nil {
			say(fmt.Sprintf("kill %d", number), err)
		}
	}
	say("kill", nil)
}

func say(call string, err error) {
	outcome := "done"
	if errno, ok := err.(syscall.Errno); ok {
		outcome = unix.ErrnoName(errno)
	}
	fmt.Println(call, outcome)
}

// ownedBy has the kernel send SIGKILL to the owner of a pipe that becomes readable, and makes it so.
func ownedBy(kind, pid int32) error {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_NONBLOCK); err != nil {
		return err
	}
	owner := [2]int32{kind, pid}
	if _, _, errno := unix.Syscall(unix.SYS_FCNTL, uintptr(ends[0]), unix.F_SETOWN_EX, uintptr(unsafe.Pointer(&owner))); errno != 0 {
		return errno
	}
	if _, err := unix.FcntlInt(uintptr(ends[0]), unix.F_SETSIG, int(unix.SIGKILL)); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(ends[0]), unix.F_SETFL, unix.O_NONBLOCK|unix.O_ASYNC); err != nil {
		return err
	}
	_, err := unix.Write(ends[1], []byte("x"))
	return err
}

// queue sends a signal with rt_sigqueueinfo, in the code that only processes may give.
func queue(number syscall.Signal) error {
	const byQueue = -1
	info := [32]int32{int32(number), 0, byQueue}
	if _, _, errno := unix.Syscall(unix.SYS_RT_SIGQUEUEINFO, first, uintptr(number), uintptr(unsafe.Pointer(&info))); errno != 0 {
		return errno
	}
	return nil
}
