package agent

import "testing"

// FuzzConfig: what is in the file is settings that keep their bounds, or an error.
func FuzzConfig(f *testing.F) {
	f.Add([]byte("interval: 10s\nrelabel_configs:\n  - {source_labels: [comm], regex: 'a.*', action: drop}\n"))
	f.Add([]byte("bpf_fs: sys\n"))
	f.Add([]byte("&a [*a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseConfig(b)
		if err == nil && (c.Interval < 0 || c.BPFFS != "" && c.BPFFS[0] != '/') {
			t.Errorf("%+v", c)
		}
	})
}
