package unwind

import (
	"bufio"
	"cmp"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// dumped is a function as llvm-dwarfdump prints it.
type dumped struct {
	start, end uint64
	rows       []dumpedRow
}

type dumpedRow struct {
	addr uint64
	rule Rule
}

var (
	dumpCFA = regexp.MustCompile(`^CFA=(?:(R[A-Z0-9]+|W\d+|X\d+|W?SP|reg\d+)([+-]\d+)?|(DW_OP_.*?))(?::|$)`)
	dumpReg = regexp.MustCompile(`(?:[:,] )(RBP|RIP|W29|W30|reg\d+)=(\[DW_OP_[^]]*\]|\[CFA[^]]*\]|[^,]+)`)
	dumpOp  = regexp.MustCompile(`^DW_OP_breg(\d+) \w+([+-]\d+)(, DW_OP_deref)?(?:, DW_OP_plus_uconst 0x([0-9a-f]+))?$`)
	dumpPLT = regexp.MustCompile(`^DW_OP_breg7 RSP\+8, DW_OP_breg16 RIP\+0, DW_OP_lit15, DW_OP_and, DW_OP_lit(\d+), DW_OP_ge, DW_OP_lit3, DW_OP_shl, DW_OP_plus$`)
)

var dumpNumbers = map[string]uint8{
	"RAX": 0, "RDX": 1, "RCX": 2, "RBX": 3, "RSI": 4, "RDI": 5, "RBP": 6, "RSP": 7, "R8": 8, "R9": 9, "R10": 10,
	"R11": 11, "R12": 12, "R13": 13, "R14": 14, "R15": 15, "RIP": 16, "SP": 31, "WSP": 31,
}

func dumpNumber(name string) uint8 {
	if n, ok := dumpNumbers[name]; ok {
		return n
	}
	n, err := strconv.Atoi(strings.TrimLeft(name, "WXreg"))
	if err != nil {
		panic("register " + name)
	}
	return uint8(n)
}

func number(s string) int64 {
	if s == "" {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// dumpRule reads the part of a printed row that stands behind its address.
func dumpRule(s string, m elf.Machine, signal bool) Rule {
	if signal {
		return Rule{CFA: CFASignal}
	}
	unsupported := Rule{CFA: CFAUnsupported}
	cfa := dumpCFA.FindStringSubmatch(s)
	if cfa == nil {
		return unsupported
	}
	saves := map[string]string{}
	for _, r := range dumpReg.FindAllStringSubmatch(s, -1) {
		saves[r[1]] = r[2]
	}
	fp, ra := saves["RBP"], saves["RIP"]
	fpReg := "6"
	if m == elf.EM_AARCH64 {
		fp, ra, fpReg = saves["W29"], saves["W30"], "29"
	}
	if ra == "undefined" {
		return Rule{CFA: CFAEnd}
	}
	var r Rule
	switch {
	case cfa[3] == "":
		r = Rule{CFA: CFARegister, Reg: dumpNumber(cfa[1]), Offset: int32(number(cfa[2]))}
	case dumpPLT.MatchString(cfa[3]):
		r = Rule{CFA: CFAPLT, Reg: 7, Offset: 8, Extra: int32(number(dumpPLT.FindStringSubmatch(cfa[3])[1]))}
	case dumpOp.MatchString(cfa[3]):
		o := dumpOp.FindStringSubmatch(cfa[3])
		n, _ := strconv.ParseInt("0"+o[4], 16, 64)
		r = Rule{CFA: CFADeref, Reg: uint8(number(o[1])), Offset: int32(number(o[2])), Extra: int32(n)}
		if o[3] == "" {
			r.CFA, r.Offset, r.Extra = CFARegister, r.Offset+r.Extra, 0
		}
	default:
		return unsupported
	}
	atCFA := func(s string) (int64, bool) {
		s, ok := strings.CutPrefix(s, "[CFA")
		if !ok {
			return 0, false
		}
		return number(strings.TrimSuffix(s, "]")), true
	}
	if off, ok := atCFA(ra); ok && !fits16(off) {
		return unsupported // frames beyond 32 kB on arm64
	} else if ok {
		r.RA, r.RAOff = SaveOffset, int16(off)
	} else if ra != "" && ra != "same" && ra[0] != '[' {
		r.RA, r.RAOff = SaveRegister, int16(dumpNumber(ra))
	} else if m == elf.EM_X86_64 || ra != "" && ra != "same" {
		return unsupported
	}
	if off, ok := atCFA(fp); ok && !fits16(off) {
		r.FP = SaveUndefined
	} else if ok {
		r.FP, r.FPOff = SaveOffset, int16(off)
	} else if o := dumpOp.FindStringSubmatch(strings.Trim(fp, "[]")); o != nil && o[1] == fpReg && o[3] == "" && fp[0] == '[' {
		r.FP, r.FPOff = SaveAtFP, int16(number(o[2]))
	} else if fp != "" && fp != "same" {
		r.FP = SaveUndefined
	}
	return r
}

// dump has llvm-dwarfdump print a file's unwind information: functions of .eh_frame, then .debug_frame.
func dump(tool, path string, m elf.Machine) ([]dumped, error) {
	cmd := exec.Command(tool, "--eh-frame", path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var eh, debug []dumped
	into := &debug
	signals := map[string]bool{}
	var cie string
	signal := false
	in := bufio.NewScanner(out)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		line := in.Text()
		switch {
		case strings.HasPrefix(line, ".eh_frame contents"):
			into = &eh
			clear(signals)
		case strings.HasPrefix(line, ".debug_frame contents"):
			into = &debug
			clear(signals)
		case strings.HasSuffix(line, " CIE"):
			cie = strings.Fields(line)[0]
		case strings.HasPrefix(line, "  Augmentation: "):
			signals[cie] = strings.Contains(line, "S")
		case strings.Contains(line, " FDE cie="):
			var d dumped
			w := strings.Fields(line)
			pc := strings.TrimPrefix(w[len(w)-1], "pc=")
			if _, err := fmt.Sscanf(pc, "%x...%x", &d.start, &d.end); err != nil {
				return nil, fmt.Errorf("reading %q: %w", line, err)
			}
			signal = signals[strings.TrimPrefix(w[len(w)-2], "cie=")]
			*into = append(*into, d)
		case strings.HasPrefix(line, "  0x"):
			addr, rest, _ := strings.Cut(strings.TrimSpace(line), ": ")
			a, err := strconv.ParseUint(addr, 0, 64)
			if err != nil {
				return nil, err
			}
			d := &(*into)[len(*into)-1]
			d.rows = append(d.rows, dumpedRow{a, dumpRule(rest, m, signal)})
		}
	}
	// In the middle of its own faults the tool still prints; what it printed must agree.
	io.Copy(io.Discard, out)
	cmd.Wait()
	return append(eh, debug...), in.Err()
}

// flatten makes of dumped functions what a table should say: gaps filled, the first of two overlapping
// functions in force, equal neighbours joined.
func flatten(fs []dumped) []dumpedRow {
	type edge struct {
		addr uint64
		fn   int
	}
	var edges []edge
	for i, f := range fs {
		if f.start < f.end {
			edges = append(edges, edge{f.start, i}, edge{f.end, i})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.addr, b.addr) })
	var out []dumpedRow
	put := func(a uint64, r Rule) {
		if n := len(out); n == 0 && r == NoInfo || n > 0 && out[n-1].rule == r {
			return
		}
		out = append(out, dumpedRow{a, r})
	}
	live := map[int]bool{}
	for i := 0; i < len(edges); {
		a := edges[i].addr
		for ; i < len(edges) && edges[i].addr == a; i++ {
			if fn := edges[i].fn; fs[fn].start == a {
				live[fn] = true
			} else {
				delete(live, fn)
			}
		}
		first := len(fs)
		for fn := range live {
			first = min(first, fn)
		}
		if first == len(fs) {
			put(a, NoInfo)
			continue
		}
		to := edges[i].addr // a live one ends there or later
		rows := fs[first].rows
		if len(rows) == 0 || rows[0].addr > a {
			put(a, NoInfo)
		}
		for k, r := range rows {
			next := to
			if k+1 < len(rows) {
				next = rows[k+1].addr
			}
			if from := max(r.addr, a); from < min(next, to) {
				put(from, r.rule)
			}
		}
	}
	return out
}

// testTruth compares a file's table with what the tool says, and returns the table.
func testTruth(t *testing.T, tool, path string) *Table {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	im, err := openImage(f)
	if err != nil {
		t.Fatal(err)
	}
	b := newBuilder()
	if err := compileFrames(im, b); err != nil {
		t.Fatal(err)
	}
	table := b.table(im.machine)
	fs, err := dump(tool, path, im.machine)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, table, flatten(fs))
	checkTable(t, table)
	testPacked(t, table)
	return table
}

func compare(t *testing.T, table *Table, want []dumpedRow) {
	t.Helper()
	bad := 0
	for i := 0; i < max(len(want), len(table.Rows)) && bad < 10; i++ {
		var g, w dumpedRow
		if i < len(table.Rows) {
			g = dumpedRow{uint64(table.Rows[i].Addr), table.Rules[table.Rows[i].Rule]}
		}
		if i < len(want) {
			w = want[i]
		}
		if w.rule.CFA == CFARegister && w.rule.Reg == dwarfRSP && w.rule.Offset == 0 && g.rule.CFA == CFARegister {
			// DW_CFA_def_cfa_register after an expression: libgcc keeps the offset from before it, LLVM
			// puts 0, which cannot be (the return address would lie below the stack). libgcrypt has one.
			w.rule.Offset = g.rule.Offset
		}
		if g != w {
			t.Errorf("row %d: is %x %+v, want %x %+v", i, g.addr, g.rule, w.addr, w.rule)
			bad++
		}
	}
	if len(want) != len(table.Rows) {
		t.Errorf("%d rows, want %d", len(table.Rows), len(want))
	}
}

// checkTable checks what the type promises.
func checkTable(t *testing.T, table *Table) {
	t.Helper()
	for i, r := range table.Rows {
		if i > 0 && (r.Addr <= table.Rows[i-1].Addr || r.Rule == table.Rows[i-1].Rule) {
			t.Fatalf("row %d: %x %d after %x %d", i, r.Addr, r.Rule, table.Rows[i-1].Addr, table.Rows[i-1].Rule)
		}
		if int(r.Rule) >= len(table.Rules) {
			t.Fatalf("row %d: rule %d of %d", i, r.Rule, len(table.Rules))
		}
	}
	if n := len(table.Rows); n > 0 && table.Rows[n-1].Rule != 0 {
		t.Fatalf("the last row says %+v", table.Rules[table.Rows[n-1].Rule])
	}
	seen := map[Rule]bool{}
	for _, r := range table.Rules {
		if seen[r] {
			t.Fatalf("rule %+v stands twice", r)
		}
		seen[r] = true
	}
	if table.Rules[0] != NoInfo {
		t.Fatalf("rule 0 is %+v", table.Rules[0])
	}
}

func dwarfdump(t *testing.T) string {
	for _, name := range []string{"llvm-dwarfdump-19", "llvm-dwarfdump"} {
		if p, err := exec.LookPath(name); err == nil {
			return p
		}
	}
	t.Skip("llvm-dwarfdump is not installed")
	return ""
}

// TestTruth compares tables, row for row, with llvm-dwarfdump's on files of this machine; with
// PERFUSE_ALL_LIBRARIES=1 on all of its libraries and programs; with PERFUSE_TRUTH=PATTERN on others.
func TestTruth(t *testing.T) {
	tool := dwarfdump(t)
	patterns := []string{
		"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2", "/bin/bash", "/usr/bin/openssl",
		"/usr/lib/x86_64-linux-gnu/libgcrypt.so.20", "/usr/lib/x86_64-linux-gnu/libstdc++.so.6", "/usr/lib/x86_64-linux-gnu/libgcc_s.so.1",
	}
	all := os.Getenv("PERFUSE_ALL_LIBRARIES") != ""
	if all {
		patterns = []string{"/usr/lib/x86_64-linux-gnu/*.so*", "/usr/bin/*", "/usr/sbin/*", "/usr/lib64/*.so*", "/usr/aarch64-linux-gnu/lib/*.so*"}
	}
	if p := os.Getenv("PERFUSE_TRUTH"); p != "" {
		patterns = []string{p}
	}
	var totals shares
	seen := map[string]bool{}
	for _, p := range patterns {
		paths, _ := filepath.Glob(p)
		for _, path := range paths {
			path, err := filepath.EvalSymlinks(path)
			if err != nil || seen[path] {
				continue
			}
			seen[path] = true
			if f, err := elf.Open(path); err != nil {
				continue // a script
			} else {
				f.Close()
			}
			t.Run(filepath.Base(path), func(t *testing.T) {
				totals.add(testTruth(t, tool, path))
			})
		}
	}
	if totals.files == 0 {
		t.Skip("none of the files is here")
	}
	t.Logf("%s", totals.String())
}

// shares counts rows and addresses by kind of rule.
type shares struct {
	files, functions, bad, shadowed int
	rows, addrs                     map[string]uint64
}

func (s *shares) add(t *Table) {
	if s.rows == nil {
		s.rows, s.addrs = map[string]uint64{}, map[string]uint64{}
	}
	s.files++
	s.functions += t.Stats.Functions
	s.bad += t.Stats.Bad
	s.shadowed += t.Stats.Shadowed
	for i, r := range t.Rows[:max(0, len(t.Rows)-1)] {
		rule := t.Rules[r.Rule]
		n := uint64(t.Rows[i+1].Addr - r.Addr)
		k := [...]string{"none", "register", "deref", "plt", "signal", "end", "frame pointer", "unsupported"}[rule.CFA]
		if rule.CFA == CFARegister || rule.CFA == CFADeref {
			k = fmt.Sprintf("%s %d", k, rule.Reg)
		}
		f := [...]string{"fp same", "fp at CFA", "fp undefined", "fp at fp"}[rule.FP]
		for _, k := range []string{"all", k, f} {
			s.rows[k]++
			s.addrs[k] += n
		}
		if rule.CFA >= CFARegister && rule.CFA <= CFAPLT && rule.RAOff != -8 {
			s.rows["ra not at -8"]++
			s.addrs["ra not at -8"] += n
		}
	}
}

func (s *shares) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d files, %d functions, %d bad, %d shadowed\n", s.files, s.functions, s.bad, s.shadowed)
	keys := make([]string, 0, len(s.rows))
	for k := range s.rows {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(x, y string) int { return cmp.Compare(s.rows[y], s.rows[x]) })
	for _, k := range keys {
		fmt.Fprintf(&b, "%-14s %9d rows %9.5f %%  %11d addresses %9.5f %%\n", k,
			s.rows[k], 100*float64(s.rows[k])/float64(s.rows["all"]), s.addrs[k], 100*float64(s.addrs[k])/float64(s.addrs["all"]))
	}
	return b.String()
}
