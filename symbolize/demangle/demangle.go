// Package demangle turns the names that compilers give to symbols into the names that people gave to
// functions: C++ (Itanium ABI), Rust (legacy and v0) and Swift. Go needs no demangling, but the
// arguments of its generic functions become [...], as in Go's own traces and profiles.
//
// Parameters and return types are left out, template arguments stay: std::vector<int>::push_back. Clones
// that a compiler makes of one function (.isra.0, .part.1, .cold) carry the function's name. The symbol's
// own name is never lost: it travels beside the demangled one.
package demangle

import (
	"strings"

	"github.com/ianlancetaylor/demangle"
)

// maxLength bounds what is demangled and what comes out. Back references let a short name unfold to
// gigabytes.
const (
	maxLength    = 16 << 10
	maxResultPow = 14 // 16 KiB
)

// Name demangles a symbol's name. What is no mangled name, or none that is understood, comes back as it is.
func Name(symbol string) string {
	// A symbol version or a stub's suffix (write@plt, _Znwm@@GLIBCXX_3.4) is not part of the mangled name.
	base, suffix := symbol, ""
	if i := strings.IndexByte(symbol, '@'); i > 0 {
		base, suffix = symbol[:i], symbol[i:]
	}
	if name, ok := plain(base); ok {
		return name + suffix
	}
	return symbol
}

func plain(symbol string) (name string, ok bool) {
	if len(symbol) > maxLength {
		return "", false
	}
	switch {
	case strings.HasPrefix(symbol, "_Z"), strings.HasPrefix(symbol, "__Z"), strings.HasPrefix(symbol, "___Z"),
		strings.HasPrefix(symbol, "_R"), strings.HasPrefix(symbol, "_GLOBAL_"):
		name, err := demangle.ToString(symbol, demangle.NoParams, demangle.NoClones, demangle.MaxLength(maxResultPow))
		return name, err == nil && name != ""
	}
	if name, ok := goGeneric(symbol); ok {
		return name, true
	}
	return swift(symbol)
}

// goGeneric shortens package.Func[arguments]: a dot before the bracket, and nothing that Go has not.
func goGeneric(symbol string) (string, bool) {
	i := strings.IndexByte(symbol, '[')
	if i <= 0 || strings.IndexByte(symbol[:i], '.') < 0 || strings.ContainsAny(symbol[:i], ":<> ") {
		return "", false
	}
	j := strings.LastIndexByte(symbol, ']')
	if j < i {
		return "", false
	}
	return symbol[:i] + "[...]" + symbol[j+1:], true
}
