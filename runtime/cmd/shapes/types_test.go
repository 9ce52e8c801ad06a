package main

import (
	"net"
	"reflect"
	"testing"

	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/urpc"
)

type inner struct {
	Port uint16 `json:"port"`
}

type example struct {
	urpc.FilePayload
	inner
	Name     string `json:"name,omitempty"`
	Untagged []*int
	Hidden   string `json:"-"`
	private  int
	Hardware net.HardwareAddr
	Address  net.IP
	Labels   map[string]bool
	State    *vfs.MountNamespace
	Next     *example
}

func newCatalogue() catalogue {
	return catalogue{fields: map[string]Fields{}, origin: map[string]reflect.Type{}}
}

func TestAStructIsDescribedAsJSONReadsIt(t *testing.T) {
	types := newCatalogue()
	if got := types.expression(reflect.TypeFor[example]()); got != "main.example" {
		t.Fatalf("the expression is %q", got)
	}
	want := Fields{
		"port":     "uint16",
		"name":     "string",
		"Untagged": "[]*int",
		"Hardware": "bytes",
		"Address":  "ip",
		"Labels":   "map[string]bool",
		"State":    "never",
		"Next":     "*main.example",
	}
	if got := types.fields["main.example"]; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestFilesAreSeenInEmbeddedStructs(t *testing.T) {
	if !carriesFiles(reflect.TypeFor[example]()) || carriesFiles(reflect.TypeFor[inner]()) {
		t.Error("the file payload is missed, or invented")
	}
}

func TestEveryUsedCallExists(t *testing.T) {
	if _, err := describeMethods(newCatalogue()); err != nil {
		t.Error(err)
	}
}
