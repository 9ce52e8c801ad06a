// Precompiled prints the file runsc/boot/filter/filter_precompiled.go with the seccomp programs that our flags can need.
//
// The Go module of gVisor ships that file with an empty list, because upstream fills it in a Bazel step. Without
// it every start and every restore compiles its filter anew, which takes some 40 ms.
//
//	precompiled -input .../filter_precompiled.go > new_filter_precompiled.go
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	// Registers the platforms; the list of programs is made from what is registered.
	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	_ "gvisor.dev/gvisor/pkg/sentry/platform/platforms"
	"gvisor.dev/gvisor/runsc/boot/filter/config"
)

const (
	insertionPoint = "\tprecompiledPrograms = programs\n"
	disabledMark   = "PrecompilationDisabledAtBuildTime = true"
	enabledMark    = "PrecompilationDisabledAtBuildTime = false"
)

func main() {
	input := flag.String("input", "", "path of the module's own filter_precompiled.go")
	flag.Parse()
	if err := run(*input); err != nil {
		fmt.Fprintln(os.Stderr, "precompiled:", err)
		os.Exit(1)
	}
}

func run(input string) error {
	source, err := os.ReadFile(input)
	if err != nil {
		return err
	}
	programs, err := config.PrecompiledPrograms()
	if err != nil {
		return fmt.Errorf("compile the programs: %w", err)
	}
	kept := reachable(programs)
	filled, err := fill(string(source), kept)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "kept %d of %d programs\n", len(kept), len(programs))
	_, err = os.Stdout.WriteString(filled)
	return err
}

// reachable returns the programs that a sandbox of ours can ask for: platform systrap, no TPU and no RDMA devices.
func reachable(programs []precompiledseccomp.Program) []precompiledseccomp.Program {
	var kept []precompiledseccomp.Program
	for _, program := range programs {
		name := program.Name
		if strings.Contains(name, `Platform="systrap"`) &&
			!strings.Contains(name, "TPUProxy=true") &&
			!strings.Contains(name, "RDMAProxy=true") {
			kept = append(kept, program)
		}
	}
	return kept
}

// fill returns source with the programs registered in it; it fails when upstream's file no longer has the expected form.
func fill(source string, programs []precompiledseccomp.Program) (string, error) {
	if len(programs) == 0 {
		return "", errors.New("no program fits platform systrap; the names of gVisor's options have changed, so adapt reachable()")
	}
	for _, mark := range []string{insertionPoint, disabledMark} {
		if strings.Count(source, mark) != 1 {
			return "", fmt.Errorf("%q does not occur exactly once in the input; gVisor's file has changed, so adapt fill()", mark)
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
