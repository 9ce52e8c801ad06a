// Shapes prints, as JSON, what gVisor's control socket takes and answers for the calls that we use.
//
// The shapes come by reflection from gVisor's own Go types, so they are true for the gVisor that go.mod pins. They
// matter because the server ignores a field that it does not know and fills in a zero for one that is missing.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime/debug"

	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/flag"
)

const module = "gvisor.dev/gvisor"

// A Document is the content of shapes.json.
type Document struct {
	GeneratedBy string            `json:"generated_by"`
	Gvisor      string            `json:"gvisor"`
	Methods     map[string]Method `json:"methods"`
	Types       map[string]Fields `json:"types"`
	DefaultConf *config.Config    `json:"default_conf"`
}

func main() {
	document, err := describe()
	if err != nil {
		fmt.Fprintln(os.Stderr, "shapes:", err)
		os.Exit(1)
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(document); err != nil {
		fmt.Fprintln(os.Stderr, "shapes:", err)
		os.Exit(1)
	}
}

func describe() (*Document, error) {
	version, err := pinnedVersion()
	if err != nil {
		return nil, err
	}
	conf, err := defaultConf()
	if err != nil {
		return nil, err
	}
	types := catalogue{fields: map[string]Fields{}, origin: map[string]reflect.Type{}}
	methods, err := describeMethods(types)
	if err != nil {
		return nil, err
	}
	return &Document{
		GeneratedBy: "runtime/cmd/shapes (python tools/build_runtime.py --shapes); do not edit",
		Gvisor:      version,
		Methods:     methods,
		Types:       types.fields,
		DefaultConf: conf,
	}, nil
}

func pinnedVersion() (string, error) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "", errors.New("this binary carries no build information")
	}
	for _, dependency := range info.Deps {
		if dependency.Path == module {
			return dependency.Version, nil
		}
	}
	return "", fmt.Errorf("this binary was built without %s", module)
}

// defaultConf returns the Conf that runsc makes from its flags when none is given.
func defaultConf() (*config.Config, error) {
	flags := flag.NewFlagSet("runsc", flag.ContinueOnError)
	config.RegisterFlags(flags)
	conf, err := config.NewFromFlags(flags)
	if err != nil {
		return nil, fmt.Errorf("make Conf from the default flags: %w", err)
	}
	conf.RootDir = "" // it depends on the environment, and each caller has its own
	return conf, nil
}
