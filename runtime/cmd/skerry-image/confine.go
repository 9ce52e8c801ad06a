package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	nobody = 65534
	files  = 64 // those that are open, and what the Go runtime adds

	// Offsets in struct seccomp_data, linux/seccomp.h; arguments are 64 bits, little endian.
	dataNumber = 0
	dataArch   = 4
	dataFirst  = 16
)

// allowed is what this program and the Go runtime call once their files are open. Nothing in it opens, connects,
// executes, signals another process or changes who we are. Not fcntl: F_SETOWN and F_SETSIG let a pipe send signals.
var allowed = []uint32{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_LSEEK, unix.SYS_FSTAT,
	unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FSYNC, unix.SYS_CLOSE,
	unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MPROTECT, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_BRK,
	unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY,
	unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETRANDOM,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2,
	unix.SYS_RESTART_SYSCALL, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
}

// confine gives up everything that reading an archive and writing an image does not need, for good. The archive is a
// guest's work: whoever finds a hole in the code that reads it holds the files that are open, and nothing else.
func confine() error {
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: files, Max: files}); err != nil {
		return fmt.Errorf("limit the files: %w", err)
	}
	if os.Geteuid() == 0 {
		if err := becomeNobody(); err != nil {
			return fmt.Errorf("become nobody: %w", err)
		}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	return filter(program(uint32(os.Getpid())))
}

// becomeNobody leaves root with its groups and capabilities; Go does so for all threads.
func becomeNobody() error {
	return errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody))
}

// program returns the filter: what is not named fails with EPERM. New threads may be made but no process, and signals
// go to this process alone, since sandboxes have the same user.
func program(self uint32) []unix.SockFilter {
	deny := statement(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM))
	allow := statement(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ALLOW)
	made := []unix.SockFilter{
		load(dataArch),
		jump(unix.BPF_JEQ, unix.AUDIT_ARCH_X86_64, 1, 0),
		deny,
		load(dataNumber),
	}
	for _, number := range allowed {
		made = append(made, jump(unix.BPF_JEQ, number, 0, 1), allow)
	}
	return append(made,
		jump(unix.BPF_JEQ, unix.SYS_TGKILL, 0, 4),
		load(dataFirst),
		jump(unix.BPF_JEQ, self, 0, 1),
		allow,
		deny,
		jump(unix.BPF_JEQ, unix.SYS_CLONE, 0, 3),
		load(dataFirst),
		jump(unix.BPF_JSET, unix.CLONE_THREAD, 0, 1),
		allow,
		deny,
	)
}

// filter puts a filter on every thread.
func filter(made []unix.SockFilter) error {
	whole := unix.SockFprog{Len: uint16(len(made)), Filter: &made[0]}
	thread, _, failure := unix.Syscall(
		unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&whole)))
	runtime.KeepAlive(made)
	if failure != 0 {
		return fmt.Errorf("filter system calls: %w", failure)
	}
	if thread != 0 {
		return fmt.Errorf("filter system calls: thread %d refuses", thread)
	}
	return nil
}

func load(offset uint32) unix.SockFilter {
	return statement(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset)
}

func statement(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }

func jump(kind uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | kind, K: k, Jt: yes, Jf: no}
}
