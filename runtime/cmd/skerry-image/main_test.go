package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const asProgram = "SKERRY_IMAGE_TEST"

// TestMain lets the tests run this program as it is: limits hold for a process for good.
func TestMain(m *testing.M) {
	switch os.Getenv(asProgram) {
	case "main":
		main()
	case "limits":
		tellLimits()
	case "confined":
		tellConfined()
	default:
		os.Exit(m.Run())
	}
}

func tellLimits() {
	if err := limit(1 << 20); err != nil {
		fmt.Println(err)
		return
	}
	for _, kind := range []int{syscall.RLIMIT_AS, syscall.RLIMIT_CORE} {
		var bound syscall.Rlimit
		fmt.Println(syscall.Getrlimit(kind, &bound), bound.Cur, bound.Max)
	}
	err := os.WriteFile(os.Args[1], make([]byte, 2<<20), 0o600)
	fmt.Println(errors.Is(err, syscall.EFBIG))
}

// tellConfined tries what a program that was taken over would.
func tellConfined() {
	file, err := os.CreateTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	os.Remove(file.Name())
	parent := os.Getppid()
	if err := confine(); err != nil {
		fmt.Println(err)
		return
	}
	tries := map[string]func() error{
		"open":    func() error { _, err := os.Open("/proc/self/status"); return err },
		"socket":  func() error { _, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0); return err },
		"execute": func() error { return syscall.Exec("/bin/true", []string{"true"}, nil) },
		"fork":    func() error { _, err := syscall.ForkExec("/bin/true", nil, nil); return err },
		"kill":    func() error { return syscall.Kill(parent, 0) },
		"tgkill":  func() error { return unix.Tgkill(parent, parent, 0) },
		"owner":   func() error { _, err := unix.FcntlInt(file.Fd(), unix.F_SETOWN, parent); return err },
		"root":    func() error { return syscall.Setuid(0) },
		"link":    func() error { return syscall.Link("/proc/self/fd/3", "/tmp/x") },
	}
	for name, try := range tries {
		if err := try(); !errors.Is(err, syscall.EPERM) {
			fmt.Println(name, err)
		}
	}
	_, err = file.Write(make([]byte, 1<<20))
	fmt.Println(err, file.Sync(), file.Truncate(0))
	// Threads and the collector go on.
	done := make(chan int)
	for range 64 {
		go func() { runtime.LockOSThread(); done <- len(make([]byte, 1<<20)) }()
	}
	for range 64 {
		<-done
	}
	runtime.GC()
	fmt.Println("works")
}

func TestWhatIsTakenOverCanReachNothing(t *testing.T) {
	said, err := runAs(t, "confined")
	if want := "<nil> <nil> <nil>\nworks\n"; err != nil || said != want {
		t.Errorf("%v: %q, not %q", err, said, want)
	}
}

func runAs(t *testing.T, as string, args ...string) (string, error) {
	t.Helper()
	command := exec.Command(os.Args[0], args...)
	command.Env = []string{asProgram + "=" + as}
	out, err := command.CombinedOutput()
	return string(out), err
}

func TestTheProgramBoundsWhatItTakes(t *testing.T) {
	said, err := runAs(t, "limits", filepath.Join(t.TempDir(), "file"))
	want := fmt.Sprintf("<nil> %d %d\n<nil> 0 0\ntrue\n", addressBytes, addressBytes)
	if err != nil || said != want {
		t.Errorf("%v: %q, not %q", err, said, want)
	}
}

func TestAnImageBeyondItsBoundIsNotMade(t *testing.T) {
	tool, err := exec.LookPath("mkfs.erofs")
	if err != nil {
		t.Skip("mkfs.erofs is not installed; apt-get install erofs-utils")
	}
	folder := t.TempDir()
	base, upper, out := filepath.Join(folder, "base"), filepath.Join(folder, "upper"), filepath.Join(folder, "out")
	if said, err := exec.Command(tool, "-x-1", "-Enoinline_data", base, t.TempDir()).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.erofs: %v: %s", err, said)
	}
	var archive bytes.Buffer
	writer := tar.NewWriter(&archive)
	body := strings.Repeat("x", 2<<20)
	if err := writer.WriteHeader(&tar.Header{Name: "./file", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))}); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Write([]byte(body)); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(upper, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := runAs(t, "main", "merge", "--base="+base, "--upper="+upper, "--most=1048576", out)
	if err == nil || !strings.Contains(said, "more than 1048576 bytes") {
		t.Errorf("%v: %s", err, said)
	}
	if info, err := os.Stat(out); err != nil || info.Size() != 0 {
		t.Errorf("something was left: %v, %v", info, err)
	}
	if err := os.Remove(out); err != nil {
		t.Fatal(err)
	}
	if said, err := runAs(t, "main", "merge", "--base="+base, "--upper="+upper, "--most=4194304", out); err != nil {
		t.Errorf("%v: %s", err, said)
	}
}
