package main

import (
	"fmt"
	"os"
	"reflect"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform"
)

const (
	ourPlatform = "systrap"
	// selfPID is gVisor's name (config.selfPIDVarName) for the pid of the process that installs the filter.
	selfPID = "self_pid"
)

// narrowPlatforms makes upstream's generator compile for our platform only, with its one rule that is not portable
// corrected. It fails when that rule is no longer what we correct.
func narrowPlatforms() error {
	for _, name := range platform.List() {
		constructor, err := platform.Lookup(name)
		if err != nil {
			return err
		}
		if name != ourPlatform {
			platform.Register(name, unused{constructor})
			continue
		}
		for _, info := range constructor.PrecompiledSeccompInfo() {
			if found := info.SyscallFilters(info.Variables()).Get(unix.SYS_RT_TGSIGQUEUEINFO); !isOwnKill(found) {
				return fmt.Errorf("%s: the rule for rt_tgsigqueueinfo is now %v; see whether it still has a pid built in", name, found)
			}
		}
		platform.Register(name, corrected{constructor})
	}
	return nil
}

func isOwnKill(rule seccomp.SyscallRule) bool {
	return reflect.DeepEqual(rule, ownKill(uint64(os.Getpid())))
}

// ownKill allows a process to kill itself.
func ownKill(pid uint64) seccomp.SyscallRule {
	return seccomp.PerArg{seccomp.EqualTo(pid), seccomp.AnyValue{}, seccomp.EqualTo(unix.SIGKILL)}
}

// unused is a platform for which nothing is compiled.
type unused struct{ platform.Constructor }

func (unused) PrecompiledSeccompInfo() []platform.SeccompInfo { return nil }

// corrected is a platform whose filters name no process of the build.
type corrected struct{ platform.Constructor }

func (c corrected) PrecompiledSeccompInfo() []platform.SeccompInfo {
	var infos []platform.SeccompInfo
	for _, info := range c.Constructor.PrecompiledSeccompInfo() {
		infos = append(infos, correctedInfo{info})
	}
	return infos
}

type correctedInfo struct{ platform.SeccompInfo }

// SyscallFilters returns upstream's rules, where the pid in the rule for rt_tgsigqueueinfo is a variable.
//
// Upstream's rule says os.Getpid(). In a filter that is compiled at the start this is the sentry; in one that is
// compiled before, it is the generator: the sentry could not use the call, and no two builds would be alike.
func (c correctedInfo) SyscallFilters(vars precompiledseccomp.Values) seccomp.SyscallRules {
	rules := c.SeccompInfo.SyscallFilters(vars)
	rules.Remove(unix.SYS_RT_TGSIGQUEUEINFO)
	rules.Set(unix.SYS_RT_TGSIGQUEUEINFO, ownKill(vars.GetUint64(selfPID)))
	return rules
}
