package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"testing"
	"testing/fstest"

	"github.com/perfuse/perfuse/profile/gate"
)

// The runs in testdata were recorded once, on a machine with much else to do, and experiments are drawn by fixed seeds: what
// these tests see does not change from one time to the next.
func recorded(t *testing.T) pool {
	t.Helper()
	p, err := openPool(os.DirFS("testdata"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func draw(t *testing.T, experiments, pairs int, variant string, limit float64) *outcome {
	t.Helper()
	o, err := recorded(t).draw(t.Context(), experiments, pairs, variant, gate.Options{Relabellings: 500, MaxRegression: limit})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestNothingChanged holds the gate to its rate: of 200 experiments without a change it fails in 10 at most.
func TestNothingChanged(t *testing.T) {
	o := draw(t, 200, 10, "baseline", 0.05)
	if o.failed > 10 || o.found > 10 {
		t.Errorf("of 200 experiments %d failed and %d found something", o.failed, o.found)
	}
	t.Logf("of 200 experiments %d failed, %d found something, %d could not tell", o.failed, o.found, o.untold)
}

// firsts is in how many experiments a function was named first.
func (o *outcome) firsts(name string) (n int) {
	for _, r := range o.reports {
		if rows := r.Regressions(); len(rows) > 0 && rows[0].Name == name {
			n++
		}
	}
	return n
}

func TestSlowerFunction(t *testing.T) {
	f := func(variant string, pairs int, limit float64, least int) {
		t.Helper()
		o := draw(t, 30, pairs, variant, limit)
		first := o.firsts("main.digest")
		if first < least || first < o.failed*9/10 {
			t.Errorf("%s, %d pairs: of 30 experiments %d failed and %d named it first, want %d", variant, pairs, o.failed, first, least)
		}
		t.Logf("%s, %d pairs: of 30 experiments %d failed, %d named it first", variant, pairs, o.failed, first)
	}
	f("slower by 10%", 20, 0.02, 30)
	f("slower by 10%", 20, 0.05, 20)
	f("slower by 5%", 20, 0.01, 15)
}

// TestOtherVersion tells two versions of one program apart, and says where they differ.
func TestOtherVersion(t *testing.T) {
	o := draw(t, 30, 10, "heap sort", 0.05)
	if o.failed < 30 || o.firsts("main.sortWords") < 27 {
		t.Errorf("of 30 experiments %d failed and %d named what sorts first", o.failed, o.firsts("main.sortWords"))
	}
}

func TestKeepAndOpen(t *testing.T) {
	p := recorded(t)
	kept := fstest.MapFS{}
	for _, v := range variants {
		data, err := packRuns(p[v.name])
		if err != nil {
			t.Fatal(err)
		}
		kept[poolFile(v.name)] = &fstest.MapFile{Data: data}
		again, err := packRuns(p[v.name])
		if err != nil || !bytes.Equal(data, again) {
			t.Errorf("%s: kept twice it differs: %v", v.name, err)
		}
	}
	q, err := openPool(kept)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range variants {
		if len(q[v.name]) != len(p[v.name]) || len(q[v.name]) == 0 {
			t.Fatalf("%s: %d runs of %d", v.name, len(q[v.name]), len(p[v.name]))
		}
		for i := range q[v.name] {
			if got, want := q[v.name][i].Batch.Profiles[0].Total(), p[v.name][i].Batch.Profiles[0].Total(); got != want {
				t.Errorf("%s, run %d: %d, want %d", v.name, i, got, want)
			}
		}
	}
	kept[poolFile("heap sort")].Data = kept[poolFile("heap sort")].Data[:100]
	if _, err := openPool(kept); err == nil {
		t.Error("a file that is cut short is read")
	}
}

// TestMeasure prints all tables, of few experiments.
func TestMeasure(t *testing.T) {
	if err := recorded(t).measure(context.Background(), io.Discard, 2); err != nil {
		t.Error(err)
	}
}
