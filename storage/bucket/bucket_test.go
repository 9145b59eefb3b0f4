package bucket

import (
	"bytes"
	"io"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/go-kit/log"
	"github.com/thanos-io/objstore"
)

// TestConfig runs testdata/config: "config" reads YAML and prints what is shown of it, and "open" what opening it
// says.
func TestConfig(t *testing.T) {
	datadriven.RunTest(t, "testdata/config", func(t *testing.T, d *datadriven.TestData) string {
		var c Config
		if err := c.UnmarshalText([]byte(d.Input)); err != nil {
			return err.Error() + "\n"
		}
		if d.Cmd == "config" {
			return c.String()
		}
		b, err := c.Open(log.NewNopLogger())
		if err != nil {
			return err.Error() + "\n"
		}
		defer b.Close()
		return b.Name() + "\n"
	})
}

// TestFilesystem keeps an object below the prefix.
func TestFilesystem(t *testing.T) {
	dir := t.TempDir()
	var c Config
	if err := c.UnmarshalText([]byte("type: filesystem\nprefix: some/where\nconfig: {directory: '" + dir + "'}")); err != nil {
		t.Fatal(err)
	}
	b, err := c.Open(log.NewNopLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	keep(t, b)
	if names, err := filepath.Glob(filepath.Join(dir, "some", "where", "blocks", "*")); err != nil || len(names) != 1 {
		t.Errorf("files %v, %v", names, err)
	}
}

// keep uploads an object, finds it again, and leaves it.
func keep(t *testing.T, b objstore.Bucket) {
	t.Helper()
	ctx, data := t.Context(), []byte("0123456789")
	if err := b.Upload(ctx, "blocks/a", bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	r, err := b.GetRange(ctx, "blocks/a", 3, 4)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || string(got) != "3456" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := b.Get(ctx, "blocks/b"); err == nil || !b.IsObjNotFoundErr(err) {
		t.Errorf("an object that is not there: %v", err)
	}
}

// FuzzConfig: whatever is read can be shown, and what is shown read again.
func FuzzConfig(f *testing.F) {
	f.Add([]byte("type: S3\nprefix: a\nconfig:\n  bucket: b\n  secret_key: 'hush hush'\n  http_config: {tls_config: {key_file: x}}\n"))
	f.Add([]byte("{type: gcs, config: {bucket: 0123, service_account: |\n {}\n}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var c, again Config
		if c.UnmarshalText(data) != nil {
			return
		}
		shown := c.String()
		if err := again.UnmarshalText([]byte(shown)); err != nil || again.String() != shown {
			t.Errorf("what is shown came back otherwise: %v\n%s\n%s", err, shown, again)
		}
	})
}
