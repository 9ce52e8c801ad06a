package main

import (
	"encoding"
	"encoding/json"
	"fmt"
	"net"
	"reflect"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A type expression is one of
//
//	bool string int int8 ... uint64 float64   as in Go; numbers have these ranges
//	bytes                                     a base64 string, or null
//	ip                                        an address as text, or the empty string
//	text                                      a string in a form of the type's own
//	any                                       decoded by the type itself
//	never                                     cannot be sent: leave it out, or null
//	*X  []X  map[string]X                     X or null; a list; an object
//	pkg.Name                                  an object with the fields in "types"

// Fields are the JSON fields of a struct, by name.
type Fields map[string]string

// A catalogue collects the structs that expressions mention, by package and name.
type catalogue struct {
	fields map[string]Fields
	origin map[string]reflect.Type
}

// expression returns the type expression of t and collects the structs in it.
func (c catalogue) expression(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[net.IP]():
		return "ip"
	case implements[json.Unmarshaler](t):
		return "any"
	case implements[encoding.TextUnmarshaler](t):
		return "text"
	}
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return t.Kind().String()
	case reflect.Pointer:
		return prefixed("*", c.expression(t.Elem()))
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		return prefixed("[]", c.expression(t.Elem()))
	case reflect.Map:
		if t.Key().Kind() != reflect.String {
			return "any"
		}
		return prefixed("map[string]", c.expression(t.Elem()))
	case reflect.Struct:
		return c.structure(t)
	case reflect.Interface:
		if t.NumMethod() == 0 {
			return "any"
		}
	}
	return "never"
}

// implements reports whether encoding/json lets the type, or a pointer to it, decode itself.
func implements[Interface any](t reflect.Type) bool {
	return t.Kind() != reflect.Interface && reflect.PointerTo(t).Implements(reflect.TypeFor[Interface]())
}

func prefixed(prefix, expression string) string {
	if expression == "never" {
		return expression
	}
	return prefix + expression
}

func (c catalogue) structure(t reflect.Type) string {
	if unsendable(t) {
		return "never"
	}
	name := t.String() // package and name, as in boot.StartArgs
	if t.Name() == "" {
		name = "object"
	}
	origin, known := c.origin[name]
	if !known {
		c.origin[name], c.fields[name] = t, Fields{} // before its fields, since types may mention themselves
		c.collect(t, c.fields[name])
	} else if origin != t {
		panic(fmt.Sprintf("%s and %s are both called %s", origin.PkgPath(), t.PkgPath(), name))
	}
	return name
}

// unsendable reports whether a type is the sentry's own state, or a section of the OCI spec for another system.
func unsendable(t reflect.Type) bool {
	for _, path := range []string{"/pkg/sentry/kernel", "/pkg/sentry/vfs", "/pkg/sentry/limits", "/pkg/bpf"} {
		if t.PkgPath() == module+path {
			return true
		}
	}
	switch t {
	case reflect.TypeFor[specs.Solaris](), reflect.TypeFor[specs.Windows](), reflect.TypeFor[specs.VM](), reflect.TypeFor[specs.ZOS]():
		return true
	}
	return false
}

// collect adds the fields that encoding/json would read; those of embedded structs count as the struct's own.
func (c catalogue) collect(t reflect.Type, fields Fields) {
	for i := range t.NumField() {
		field := t.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case field.Anonymous && name == "" && field.Type.Kind() == reflect.Struct:
			c.collect(field.Type, fields)
		case !field.IsExported():
		case strings.Contains(options, "string"):
			panic(fmt.Sprintf("%s.%s is a quoted value, which no expression describes", t, field.Name))
		default:
			if name == "" {
				name = field.Name
			}
			fields[name] = c.expression(field.Type)
		}
	}
}
