package server

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perfuse/perfuse/storage/frost"
	"go.yaml.in/yaml/v3"
)

// TestStorageEnvironment: what is YAML in the file is YAML in the environment, and goes before the file.
func TestStorageEnvironment(t *testing.T) {
	c, err := loadConfig("", []string{
		"PERFUSE_STORAGE_BUCKET={type: FILESYSTEM, config: {directory: /srv}}",
		"PERFUSE_STORAGE_RETENTION_RULES=[{selector: '{a=\"b\"}', age: 3d}, {selector: '{c=\"d\"}', age: 0}]",
		"PERFUSE_STORAGE_HEAD_AGE=5m",
	})
	if err != nil {
		t.Fatal(err)
	}
	o, err := c.Storage.Options()
	if err != nil || len(o.Rules) != 2 || o.Rules[0].Age != 72*time.Hour || o.Rules[1].Age >= 0 || o.Rules[1].Selector.String() != `{c="d"}` || o.HeadAge != 5*time.Minute {
		t.Errorf("options %+v, %v", o, err)
	}
	if got := c.Storage.Bucket.String(); got != "type: FILESYSTEM\nconfig:\n    directory: /srv\n" {
		t.Errorf("bucket %s", got)
	}
	shown, err := yaml.Marshal(c)
	if err != nil || !strings.Contains(string(shown), "directory: /srv") {
		t.Errorf("shown as %s, %v", shown, err)
	}
}

func TestLoadBucket(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bucket.yaml")
	f := func(content, want string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := LoadBucket(file)
		if err != nil {
			if got := strings.ReplaceAll(err.Error(), file, "F"); got != want {
				t.Errorf("%s: %s, want %s", content, got, want)
			}
		} else if got := c.String(); got != want {
			t.Errorf("%s: %s, want %s", content, got, want)
		}
	}
	f("type: FILESYSTEM\nconfig: {directory: /srv}\n", "type: FILESYSTEM\nconfig:\n    directory: /srv\n")
	f("directory: /srv\n", `reading the bucket's configuration F: line 1: unknown key "directory"; known here are type, config, prefix`)
	if _, err := LoadBucket(file + "x"); err == nil || !strings.Contains(err.Error(), "there is no such file") {
		t.Errorf("no file: %v", err)
	}
}

// TestDebugStorage: blocks, sizes and cardinalities are shown.
func TestDebugStorage(t *testing.T) {
	var store *frost.Store
	s := start(t, Options{Open: func(context.Context) (_ Backends, err error) {
		store, err = frost.New(frost.Options{Dir: t.TempDir(), Retention: -1})
		return Backends{Store: store}, err
	}})
	s.awaitReady(t)
	for _, name := range []string{"web", "api"} {
		if _, err := otlp(t, s.Addr()).Export(t.Context(), request(name, 4)); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	status, body := s.get(t, "/debug/storage?top=1")
	var got struct {
		Blocks []struct {
			Rows, Samples, Bytes int64
			Series               int
			First, Last          time.Time
		}
		Dictionary  []struct{ Name string }
		Cardinality frost.Cardinality
	}
	if err := json.Unmarshal([]byte(body), &got); status != 200 || err != nil {
		t.Fatalf("%d %v %s", status, err, body)
	}
	if len(got.Blocks) != 1 || got.Blocks[0].Rows == 0 || got.Blocks[0].Bytes == 0 || got.Blocks[0].First.IsZero() || got.Blocks[0].Series != got.Cardinality.Series {
		t.Errorf("blocks %+v", got.Blocks)
	}
	if c := got.Cardinality; len(got.Dictionary) == 0 || len(c.Labels) != 1 || c.Labels[0].Values < 2 || len(c.Labels[0].Top) != 1 {
		t.Errorf("cardinality %+v, dictionary %v", c, got.Dictionary)
	}
	if strings.Contains(body, "heaviest") {
		t.Errorf("samples were counted, though nobody asked: %s", body)
	}
	var heaviest frost.Overview
	status, body = s.get(t, "/debug/storage?series=1")
	if err := json.Unmarshal([]byte(body), &heaviest); status != 200 || err != nil || len(heaviest.Heaviest) != 1 || heaviest.Heaviest[0].Samples == 0 {
		t.Errorf("%d %v %s", status, err, body)
	}
	for _, query := range []string{"top=many", "top=-1", "top=1001", "series=1001"} {
		if status, body := s.get(t, "/debug/storage?"+query); status != 400 || !strings.Contains(body, "want a number from 0 to 1000") {
			t.Errorf("%s: %d %s", query, status, body)
		}
	}
}
