package main

import (
	"reflect"
	"testing"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/sentry/platform"
	sentry "gvisor.dev/gvisor/runsc/boot/filter/config"
)

func TestOnlyOurPlatformIsCompiledAndItsFiltersNameNoProcessOfTheBuild(t *testing.T) {
	if err := narrowPlatforms(); err != nil {
		t.Fatal(err)
	}
	for _, name := range platform.List() {
		constructor, err := platform.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		infos := constructor.PrecompiledSeccompInfo()
		if name != ourPlatform {
			if len(infos) != 0 {
				t.Errorf("%s is compiled, too", name)
			}
			continue
		}
		if len(infos) == 0 {
			t.Errorf("nothing is compiled for %s", name)
		}
		for _, info := range infos {
			// The pid must be a variable that gVisor fills in when it installs the filter.
			vars := sentry.Options{Platform: info}.Vars()
			vars.SetUint64(selfPID, 0x1234567)
			rule := info.SyscallFilters(vars).Get(unix.SYS_RT_TGSIGQUEUEINFO)
			if !reflect.DeepEqual(rule, ownKill(0x1234567)) {
				t.Errorf("%s: the rule for rt_tgsigqueueinfo is %v", name, rule)
			}
		}
	}
}
