package main

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/perfuse/perfuse/storage/frost"
)

// TestStorageOverview: everything that is read here is what the store calls so.
func TestStorageOverview(t *testing.T) {
	var told frost.Overview
	fill(reflect.ValueOf(&told).Elem())
	raw, err := json.Marshal(told)
	if err != nil {
		t.Fatal(err)
	}
	var read storageOverview
	if err := json.Unmarshal(raw, &read); err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	for _, field := range empty(reflect.ValueOf(read), "storageOverview") {
		t.Errorf("%s was not told: %s", field, raw)
	}
}

// fill makes everything in v something else than zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if _, ok := v.Interface().(time.Time); ok {
			v.Set(reflect.ValueOf(time.Unix(1, 0)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(1)
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	default:
		v.SetInt(1)
	}
}

// empty returns the names of what is zero in v.
func empty(v reflect.Value, name string) (out []string) {
	if v.IsZero() {
		return []string{name}
	}
	switch v.Kind() {
	case reflect.Struct:
		if _, ok := v.Interface().(time.Time); ok {
			return nil
		}
		for i := range v.NumField() {
			out = append(out, empty(v.Field(i), name+"."+v.Type().Field(i).Name)...)
		}
	case reflect.Slice:
		out = empty(v.Index(0), name+"[0]")
	}
	return out
}
