package main

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/urpc"
	"gvisor.dev/gvisor/runsc/boot"
)

// A Method is one call: what it takes and what it answers, as type expressions, and whether files travel along.
type Method struct {
	Argument string `json:"argument"`
	Files    bool   `json:"files"`
	Result   string `json:"result"`
	// ResultFiles says that the answer may carry descriptors.
	ResultFiles bool `json:"result_files"`
}

// used lists the calls that we make. runtime/CONTROL.md says what each does and which files it wants.
var used = []string{
	"containerManager.Checkpoint",
	"containerManager.ContainerRuntimeState",
	"containerManager.CreateSubcontainer",
	"containerManager.DestroySubcontainer",
	"containerManager.Event",
	"containerManager.ExecuteAsync",
	"containerManager.GetNetworkConfig",
	"containerManager.Mount",
	"containerManager.Pause",
	"containerManager.Processes",
	"containerManager.Restore",
	"containerManager.RestoreSubcontainer",
	"containerManager.Resume",
	"containerManager.SetNetworkArgs",
	"containerManager.Signal",
	"containerManager.StartRoot",
	"containerManager.StartSubcontainer",
	"containerManager.Wait",
	"containerManager.WaitCheckpoint",
	"containerManager.WaitPID",
	"containerManager.WaitRestore",
	"Fs.Mount",
	"Fs.Read",
	"Fs.TarRootfsUpperLayer",
	"Fs.Umount",
	"Lifecycle.PauseExternalNetworking",
	"Lifecycle.ResumeExternalNetworking",
	"Network.CreateLinksAndRoutes",
	"Usage.Collect",
	"Usage.Reduce",
	"Usage.UsageFD",
}

// receivers returns what the sentry registers at its control socket, by the name that calls use.
func receivers() (map[string]reflect.Type, error) {
	manager, err := containerManager()
	if err != nil {
		return nil, err
	}
	found := map[string]reflect.Type{}
	for _, receiver := range []reflect.Type{
		manager,
		reflect.TypeFor[*boot.Network](),
		reflect.TypeFor[*control.Fs](),
		reflect.TypeFor[*control.Lifecycle](),
		reflect.TypeFor[*control.Usage](),
	} {
		found[receiver.Elem().Name()] = receiver
	}
	return found, nil
}

// containerManager returns boot's unexported type of that name, which a field of a field of the exported Loader has.
func containerManager() (reflect.Type, error) {
	controller, ok := reflect.TypeFor[boot.Loader]().FieldByName("ctrl")
	if !ok {
		return nil, errors.New("boot.Loader has no field ctrl any more")
	}
	manager, ok := controller.Type.Elem().FieldByName("manager")
	if !ok {
		return nil, errors.New("boot.controller has no field manager any more")
	}
	return manager.Type, nil
}

// describeMethods describes the used calls and collects the types that they mention.
func describeMethods(types catalogue) (map[string]Method, error) {
	known, err := receivers()
	if err != nil {
		return nil, err
	}
	described := map[string]Method{}
	for _, name := range used {
		receiver, call, _ := strings.Cut(name, ".")
		method, ok := known[receiver].MethodByName(call)
		if !ok {
			return nil, fmt.Errorf("gVisor has no control call %s any more", name)
		}
		// urpc calls func(receiver, *Argument, *Result) error.
		argument, result := method.Type.In(1).Elem(), method.Type.In(2).Elem()
		described[name] = Method{
			Argument:    types.expression(argument),
			Files:       carriesFiles(argument),
			Result:      types.expression(result),
			ResultFiles: carriesFiles(result),
		}
	}
	return described, nil
}

// carriesFiles reports whether descriptors travel beside a value of this type.
func carriesFiles(t reflect.Type) bool {
	if t == reflect.TypeFor[urpc.FilePayload]() {
		return true
	}
	if t.Kind() != reflect.Struct {
		return false
	}
	for i := range t.NumField() {
		if field := t.Field(i); field.Anonymous && carriesFiles(field.Type) {
			return true
		}
	}
	return false
}
