package server

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.yaml.in/yaml/v3"
)

// TestConfig runs testdata/config: "config [env=(NAME=VALUE,…)]" reads a file with that content and prints the
// settings that differ from those of an empty file, or the error.
func TestConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "perfuse.yaml")
	datadriven.RunTest(t, "testdata/config", func(t *testing.T, d *datadriven.TestData) string {
		var environ []string
		for _, a := range d.CmdArgs {
			if a.Key == "env" {
				environ = a.Vals
			}
		}
		if err := os.WriteFile(file, []byte(d.Input), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := loadConfig(file, environ)
		if err != nil {
			return strings.ReplaceAll(err.Error(), file, "perfuse.yaml") + "\n"
		}
		empty, err := yaml.Marshal(Config{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := yaml.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		defaults := strings.Split(string(empty), "\n")
		var out strings.Builder
		section := ""
		for _, line := range strings.Split(string(got), "\n") {
			if !strings.HasPrefix(line, " ") {
				section = ""
				if contains(defaults, line) {
					section = line + "\n"
				}
			}
			if !contains(defaults, line) {
				if strings.HasPrefix(line, " ") {
					out.WriteString(section)
					section = ""
				}
				out.WriteString(line + "\n")
			}
		}
		if out.Len() == 0 {
			return "all defaults\n"
		}
		return out.String()
	})
}

func contains(lines []string, line string) bool {
	for _, l := range lines {
		if l == line {
			return true
		}
	}
	return false
}

// TestConfigFile: a file that cannot be read is an error that says why and what to do.
func TestConfigFile(t *testing.T) {
	dir := t.TempDir()
	f := func(path, want string) {
		t.Helper()
		if _, err := loadConfig(path, nil); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
	f(filepath.Join(dir, "nothing.yaml"), "there is no such file")
	f(dir, "it is a directory")
	large := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(large, make([]byte, maxConfigBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	f(large, "larger than 1048576 bytes")
	binary := filepath.Join(dir, "binary.yaml")
	if err := os.WriteFile(binary, []byte("\x7fELF\x02\x01\x01\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	f(binary, "control characters are not allowed")
	secret := filepath.Join(dir, "secret.yaml")
	if err := os.WriteFile(secret, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(secret); err == nil {
		t.Log("this user may read everything: the case of a forbidden file is not tried")
	} else {
		f(secret, "this user may not read it")
	}
	if c, err := loadConfig("", []string{"PERFUSE_HTTP_ADDRESS=:80", "HOME=/"}); err != nil || c.HTTPAddress != ":80" {
		t.Errorf("no file: %v, %v", c, err)
	}
}

// FuzzConfig: whatever is in the file, it is settings that can be shown and read again, or an error.
func FuzzConfig(f *testing.F) {
	b, err := os.ReadFile("testdata/config")
	if err != nil {
		f.Fatal(err)
	}
	for _, block := range strings.Split(string(b), "\n\n") {
		input, _, _ := strings.Cut(block, "\n----")
		_, input, _ = strings.Cut(input, "\n")
		f.Add([]byte(input))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var c Config
		if err := parseConfig(data, &c); err != nil {
			return
		}
		c.Agent = yaml.Node{} // kept as it was written, which may refer to what lies outside of it
		c.ScrapeConfigs = nil // shown without its secrets; FuzzConfig of package scrape has it
		shown, err := yaml.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var again Config
		if err := parseConfig(shown, &again); err != nil {
			t.Fatalf("what is shown cannot be read: %v\n%s", err, shown)
		}
		if fmt.Sprint(c) != fmt.Sprint(again) {
			t.Fatalf("%v\nbecame\n%v", c, again)
		}
	})
}
