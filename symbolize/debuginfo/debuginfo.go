// Package debuginfo keeps what names the addresses of executable files, and names them.
//
// The agent's side is [Extract]: out of an executable it keeps what symbolization needs and nothing of its
// code or data. The server's side is [Store]: it takes extracted files, builds one compact symbol table
// for each build id (room table) in the background, and answers look-ups from a bounded set of mapped
// tables. [Local] does the same for files of this machine, for recordings without a server.
//
// Who is believed where several sources speak about an address is decided in room index.
package debuginfo

import "fmt"

// isBuildID says whether s may become a file's name: 4 to 64 bytes in lower-case hex.
func isBuildID(s string) bool {
	if len(s) < 8 || len(s) > 128 || len(s)%2 != 0 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func badBuildID(s string) error {
	if len(s) > 140 {
		s = s[:140] + "…"
	}
	return fmt.Errorf("%q is no build id (want 8 to 128 hex digits in lower case)", s)
}
