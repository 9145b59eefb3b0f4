package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage/frost"
	"github.com/perfuse/perfuse/storage/storagetest"
)

// TestStorageOverview: everything that the store tells of itself has its place in what is read here.
func TestStorageOverview(t *testing.T) {
	store, err := frost.New(frost.Options{Dir: t.TempDir(), Retention: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.Write(t.Context(), storagetest.Folded(profile.TypeCPU, "pod=a", 0, "main;f 1", "main;g 2")); err != nil {
		t.Fatal(err)
	}
	if err := store.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	told, err := store.Storage(t.Context(), 10, 10)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(told)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	var read storageOverview
	if err := d.Decode(&read); err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	if len(read.Blocks) != 1 || read.Blocks[0].Samples != 2 || read.Samples != 2 || len(read.Heaviest) != 1 || read.Heaviest[0].Labels != `{pod="a"}` ||
		len(read.Dictionary) == 0 || read.Dictionary[0].Table == "" || len(read.Cardinality.Labels) != 1 || read.Cardinality.TypeNames != 1 {
		t.Errorf("%+v", read)
	}
}
