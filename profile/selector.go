package profile

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MatchOp is how a matcher compares.
type MatchOp uint8

// The four comparisons of Prometheus' selectors. Regular expressions are anchored at both ends.
const (
	MatchEqual MatchOp = iota
	MatchNotEqual
	MatchRegexp
	MatchNotRegexp
)

func (op MatchOp) String() string { return [...]string{"=", "!=", "=~", "!~"}[op] }

// Matcher is one condition on one label. A label that is absent has the value "".
type Matcher struct {
	Name  string
	Op    MatchOp
	Value string
	re    *regexp.Regexp
}

// NewMatcher compiles the regular expression if op needs one.
func NewMatcher(name string, op MatchOp, value string) (Matcher, error) {
	m := Matcher{Name: name, Op: op, Value: value}
	if op == MatchRegexp || op == MatchNotRegexp {
		re, err := regexp.Compile("^(?s:" + value + ")$")
		var se *syntax.Error
		if errors.As(err, &se) && len(se.Expr) > shownBytes {
			se.Expr = strings.ToValidUTF8(se.Expr[:shownBytes], "") + "…"
		}
		if err != nil {
			return Matcher{}, fmt.Errorf("parsing the regular expression for label %s: %w", name, err)
		}
		m.re = re
	}
	return m, nil
}

// Match says whether a label's value meets the condition.
func (m Matcher) Match(value string) bool {
	switch m.Op {
	case MatchEqual:
		return value == m.Value
	case MatchNotEqual:
		return value != m.Value
	case MatchRegexp:
		return m.re.MatchString(value)
	default:
		return !m.re.MatchString(value)
	}
}

// Selector is a conjunction of matchers; the empty one matches everything.
type Selector []Matcher

// Match says whether all matchers hold.
func (s Selector) Match(ls Labels) bool {
	for _, m := range s {
		if !m.Match(ls.Get(m.Name)) {
			return false
		}
	}
	return true
}

// String writes what ParseSelector reads.
func (s Selector) String() string {
	var b strings.Builder
	b.WriteByte('{')
	for i, m := range s {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(m.Name + m.Op.String() + quote(m.Value))
	}
	b.WriteByte('}')
	return b.String()
}

// SelectorError says where a selector stops making sense. Offset counts bytes from its start.
type SelectorError struct {
	Input  string
	Offset int
	Reason string
}

// shownBytes is how much of a long selector an error shows before and behind the offending place: errors travel in headers.
const shownBytes = 100

// Error shows the selector with a mark below the offending place.
func (e *SelectorError) Error() string {
	line := strings.NewReplacer("\n", " ", "\r", " ", "\t", " ").Replace(e.Input)
	column := utf8.RuneCountInString(line[:e.Offset])
	before, behind := line[:e.Offset], line[e.Offset:]
	if len(before) > shownBytes {
		before = "…" + strings.ToValidUTF8(before[len(before)-shownBytes:], "")
	}
	if len(behind) > shownBytes {
		behind = strings.ToValidUTF8(behind[:shownBytes], "") + "…"
	}
	return fmt.Sprintf("parsing selector at column %d: %s\n  %s%s\n  %s^", column+1, e.Reason, before, behind, strings.Repeat(" ", utf8.RuneCountInString(before)))
}

// ParseSelector reads {name="value", other=~"a|b"}. The braces may be left out, the empty string selects
// everything, values are quoted as in Go with double quotes or back quotes. Errors are *SelectorError.
func ParseSelector(in string) (Selector, error) {
	p := selectorParser{in: in}
	sel, err := p.parse()
	if err != nil {
		return nil, err
	}
	return sel, nil
}

type selectorParser struct {
	in string
	at int
}

func (p *selectorParser) fail(at int, format string, args ...any) error {
	return &SelectorError{Input: p.in, Offset: at, Reason: fmt.Sprintf(format, args...)}
}

func (p *selectorParser) space() {
	for p.at < len(p.in) && strings.IndexByte(" \t\r\n", p.in[p.at]) >= 0 {
		p.at++
	}
}

func (p *selectorParser) peek() byte {
	p.space()
	if p.at == len(p.in) {
		return 0
	}
	return p.in[p.at]
}

func (p *selectorParser) parse() (Selector, error) {
	var sel Selector
	braces := p.peek() == '{'
	if braces {
		p.at++
	}
	for {
		if c := p.peek(); c == 0 || c == '}' {
			break
		}
		m, err := p.matcher()
		if err != nil {
			return nil, err
		}
		sel = append(sel, m)
		if p.peek() != ',' {
			break
		}
		p.at++
	}
	if braces {
		if p.peek() != '}' {
			return nil, p.fail(p.at, "want ',' or '}' here")
		}
		p.at++
	}
	if p.peek() != 0 {
		return nil, p.fail(p.at, "nothing may follow the selector")
	}
	return sel, nil
}

func (p *selectorParser) matcher() (Matcher, error) {
	start := p.at
	for p.at < len(p.in) && isNameByte(p.in[p.at], p.at > start) {
		p.at++
	}
	if p.at == start {
		return Matcher{}, p.fail(p.at, "want a label name (letters, digits, '_', '.', '-')")
	}
	name := p.in[start:p.at]
	p.space()
	var op MatchOp
	rest := p.in[p.at:]
	switch {
	case strings.HasPrefix(rest, "=~"):
		op, p.at = MatchRegexp, p.at+2
	case strings.HasPrefix(rest, "!~"):
		op, p.at = MatchNotRegexp, p.at+2
	case strings.HasPrefix(rest, "!="):
		op, p.at = MatchNotEqual, p.at+2
	case strings.HasPrefix(rest, "="):
		op, p.at = MatchEqual, p.at+1
	default:
		return Matcher{}, p.fail(p.at, "want one of = != =~ !~ after %s", name)
	}
	p.space()
	quoted, err := strconv.QuotedPrefix(p.in[p.at:])
	if err != nil || quoted[0] == '\'' {
		return Matcher{}, p.fail(p.at, "want a quoted value, as in %s%s\"value\"", name, op)
	}
	value, err := strconv.Unquote(quoted)
	if err != nil {
		return Matcher{}, p.fail(p.at, "want a quoted value, as in %s%s\"value\"", name, op)
	}
	at := p.at
	p.at += len(quoted)
	m, err := NewMatcher(name, op, value)
	if err != nil {
		return Matcher{}, p.fail(at, "%v", err)
	}
	return m, nil
}

func isNameByte(c byte, inner bool) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_':
		return true
	case c >= '0' && c <= '9', c == '.', c == '-':
		return inner
	}
	return false
}

func quote(s string) string { return strconv.Quote(s) }
