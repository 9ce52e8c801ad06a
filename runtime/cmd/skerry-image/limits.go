package main

import (
	"fmt"
	"os/signal"
	"runtime/debug"
	"syscall"
)

const (
	memoryBytes  = 3 << 30 // a tree of some millions of files; the collector works harder from here on
	addressBytes = 6 << 30 // Go reserves more addresses than it uses
)

// limit bounds what this process can take from the machine: it reads archives that guests wrote.
func limit(fileBytes int64) error {
	debug.SetMemoryLimit(memoryBytes)
	bounds := map[int]uint64{syscall.RLIMIT_AS: addressBytes, syscall.RLIMIT_CORE: 0}
	if fileBytes > 0 {
		bounds[syscall.RLIMIT_FSIZE] = uint64(fileBytes)
		signal.Ignore(syscall.SIGXFSZ) // the write then fails, which is told like any failure
	}
	for kind, most := range bounds {
		if err := syscall.Setrlimit(kind, &syscall.Rlimit{Cur: most, Max: most}); err != nil {
			return fmt.Errorf("limit %d: %w", kind, err)
		}
	}
	return nil
}
