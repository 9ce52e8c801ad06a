// Precompiled puts the seccomp programs that our flags can need into a copy of gVisor's module.
//
// The Go module ships its two filter_precompiled.go files (sentry and gofer) with empty lists, because upstream
// fills them in a Bazel step. Without the programs every start and every restore compiles its filter anew, which
// takes some 40 ms.
//
//	precompiled -module DIR
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	sentry "gvisor.dev/gvisor/runsc/boot/filter/config"
	gofer "gvisor.dev/gvisor/runsc/fsgofer/filter/config"
)

const (
	insertionPoint = "\tprecompiledPrograms = programs\n"
	disabledMark   = "PrecompilationDisabledAtBuildTime = true"
	enabledMark    = "PrecompilationDisabledAtBuildTime = false"
)

// A filter is one process's list of programs: the file that holds it, upstream's generator, and what we keep.
type filter struct {
	file    string
	compile func() ([]precompiledseccomp.Program, error)
	needed  func(name string) bool
}

var filters = []filter{
	{"runsc/fsgofer/filter/filter_precompiled.go", gofer.PrecompiledPrograms, goferNeeds},
	{"runsc/boot/filter/filter_precompiled.go", sentry.PrecompiledPrograms, sentryNeeds},
}

// sentryNeeds keeps platform systrap, without TPU and RDMA devices.
func sentryNeeds(name string) bool {
	return strings.Contains(name, `Platform="systrap"`) &&
		!strings.Contains(name, "TPUProxy=true") &&
		!strings.Contains(name, "RDMAProxy=true")
}

// goferNeeds keeps what a build without cgo can ask for.
func goferNeeds(name string) bool {
	return strings.Contains(name, "CgoEnabled=false")
}

func main() {
	module := flag.String("module", "", "folder of the writable copy of gVisor's module")
	flag.Parse()
	if err := run(*module); err != nil {
		fmt.Fprintln(os.Stderr, "precompiled:", err)
		os.Exit(1)
	}
}

func run(module string) error {
	if err := narrowPlatforms(); err != nil {
		return err
	}
	for _, f := range filters {
		if err := f.rewrite(module); err != nil {
			return fmt.Errorf("%s: %w", f.file, err)
		}
	}
	return nil
}

// rewrite fills the filter's file in the module.
func (f filter) rewrite(module string) error {
	path := filepath.Join(module, f.file)
	source, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	programs, err := f.compile()
	if err != nil {
		return fmt.Errorf("compile the programs: %w", err)
	}
	kept := keep(programs, f.needed)
	filled, err := fill(string(source), kept)
	if err != nil {
		return err
	}
	fmt.Printf("%s: kept %d of %d programs\n", f.file, len(kept), len(programs))
	return os.WriteFile(path, []byte(filled), 0o644)
}

func keep(programs []precompiledseccomp.Program, needed func(string) bool) []precompiledseccomp.Program {
	var kept []precompiledseccomp.Program
	for _, program := range programs {
		if needed(program.Name) {
			kept = append(kept, program)
		}
	}
	return kept
}

// fill returns source with the programs registered in it; it fails when upstream's file no longer has the expected form.
func fill(source string, programs []precompiledseccomp.Program) (string, error) {
	if len(programs) == 0 {
		return "", errors.New("no program is left; the names of gVisor's options have changed, so adapt what is needed")
	}
	for _, mark := range []string{insertionPoint, disabledMark} {
		if strings.Count(source, mark) != 1 {
			return "", fmt.Errorf("%q does not occur exactly once; gVisor's file has changed, so adapt fill", mark)
		}
	}
	var registrations strings.Builder
	for _, program := range programs {
		registrations.WriteString(program.Registration("\t", "precompiledseccomp", "programs"))
		registrations.WriteString("\n")
	}
	source = strings.Replace(source, insertionPoint, registrations.String()+insertionPoint, 1)
	return strings.Replace(source, disabledMark, enabledMark, 1), nil
}
