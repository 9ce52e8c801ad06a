// Guest is the first process of the sandboxes in tests/integration/runtime: it waits until it is killed.
package main

import "syscall"

func main() {
	for {
		if err := syscall.Pause(); err != nil && err != syscall.EINTR {
			panic(err)
		}
	}
}
