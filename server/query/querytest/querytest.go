// Package querytest is what the fuzz tests of the doors out have in common: a little to ask about, and what an answer to
// nonsense may be.
package querytest

import (
	"testing"

	"connectrpc.com/connect"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/query"
	"github.com/perfuse/perfuse/storage/storagetest"
)

// Labels are those of the one series that New stores.
var Labels = profile.NewLabels(profile.Label{Name: "service_name", Value: "web"}, profile.Label{Name: "pod", Value: "a\"\\b\n"})

// New returns a store with one sample of main, as CPU time and as a count, in second 5, and an engine that answers from it.
func New(tb testing.TB) (*storagetest.Model, *query.Engine) {
	tb.Helper()
	store := &storagetest.Model{}
	b := &profile.Batch{Dictionary: profile.NewDictionary()}
	d := b.Dictionary
	stack := d.Stack(profile.Stack{d.Frame(profile.Frame{Lines: []profile.Line{{Function: d.Function(profile.Function{Name: "main"})}}})})
	for _, t := range []profile.Type{profile.TypeCPU, profile.TypeCPUSamples} {
		b.Profiles = append(b.Profiles, profile.Profile{
			Type: t, Labels: Labels, TimeNanos: 5e9, DurationNanos: 1e9, Samples: []profile.Sample{{Stack: stack, Value: 1}},
		})
	}
	if err := store.Write(tb.Context(), b); err != nil {
		tb.Fatal(err)
	}
	engine, err := query.New(query.Options{Store: store})
	if err != nil {
		tb.Fatal(err)
	}
	return store, engine
}

// Blames fails the test unless err is nil, or has words and a code that says that it is the question that is wrong.
func Blames(tb testing.TB, what string, code connect.Code, err error) {
	tb.Helper()
	switch {
	case err == nil:
	case err.Error() == "":
		tb.Fatalf("%s: an error without words", what)
	case code != connect.CodeInvalidArgument && code != connect.CodeNotFound && code != connect.CodeResourceExhausted && code != connect.CodeUnimplemented:
		tb.Fatalf("%s: %s %v", what, code, err)
	}
}
