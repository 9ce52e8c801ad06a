package main

import (
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
)

const source = "const PrecompilationDisabledAtBuildTime = true\nfunc registerPrograms() {\n\tprecompiledPrograms = programs\n}\n"

var program = precompiledseccomp.Program{Name: "one", Bytecode32: []uint32{6, 0}, VarOffsets: map[string][]int{"pid": {1}}}

func TestFillRegistersProgramsBeforeTheyAreUsed(t *testing.T) {
	filled, err := fill(source, []precompiledseccomp.Program{program})
	if err != nil {
		t.Fatal(err)
	}
	if registered, used := strings.Index(filled, `"one"`), strings.Index(filled, insertionPoint); registered < 0 || registered > used {
		t.Errorf("the program is not registered before its use:\n%s", filled)
	}
	if !strings.Contains(filled, enabledMark) {
		t.Errorf("the file still says that there are no programs:\n%s", filled)
	}
}

func TestFillRefusesAnUnknownFormOfTheFile(t *testing.T) {
	if _, err := fill("package filter\n", []precompiledseccomp.Program{program}); err == nil {
		t.Error("a file without the insertion point was accepted")
	}
}

func TestFillRefusesAnEmptyList(t *testing.T) {
	if _, err := fill(source, nil); err == nil {
		t.Error("an empty list was accepted")
	}
}

func TestTheProgramsOfOurFlagsAreKept(t *testing.T) {
	// The name that a start with --directfs=false asked for, from its log.
	ours := `Platform="systrap" HostNetwork=false HostFilesystem=false NVProxy=false TPUProxy=false RDMAProxy=false`
	if !sentryNeeds(ours) {
		t.Errorf("%s is dropped", ours)
	}
	if sentryNeeds(strings.Replace(ours, "TPUProxy=false", "TPUProxy=true", 1)) {
		t.Error("a program for TPU devices is kept")
	}
}
