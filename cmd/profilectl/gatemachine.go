package main

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/perfuse/perfuse/profile/gate"
)

// valueJSON is a self value or total on both sides. What is no number is left out: a ratio to nothing, an interval without end.
type valueJSON struct {
	Baseline  float64  `json:"baseline"`
	Candidate float64  `json:"candidate"`
	Ratio     *float64 `json:"ratio,omitempty"`
	Low       *float64 `json:"low,omitempty"`
	High      *float64 `json:"high,omitempty"`
	P         float64  `json:"p"`
	PFaster   float64  `json:"p_faster"`
	Effect    *float64 `json:"could_see,omitempty"`
	Tested    bool     `json:"tested"`
}

func newValueJSON(c *gate.Comparison) valueJSON {
	v := valueJSON{Baseline: c.Baseline, Candidate: c.Candidate, Ratio: finite(c.Ratio), P: c.P, PFaster: c.PFaster, Effect: finite(c.Effect), Tested: c.Tested}
	if c.Bounded() {
		v.Low, v.High = finite(c.Low), finite(c.High)
	}
	return v
}

func finite(f float64) *float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil
	}
	return &f
}

type pathJSON struct {
	Functions []string `json:"functions"`
	Baseline  float64  `json:"baseline"`
	Candidate float64  `json:"candidate"`
}

type rowJSON struct {
	Name    string     `json:"name"`
	File    string     `json:"file,omitempty"`
	Line    int32      `json:"line,omitempty"`
	Mapping string     `json:"mapping,omitempty"`
	Kind    string     `json:"kind"`
	Status  string     `json:"status"`
	Of      string     `json:"of"`
	Share   float64    `json:"share,omitempty"`
	Was     string     `json:"was,omitempty"`
	Causes  []string   `json:"causes,omitempty"`
	Self    valueJSON  `json:"self"`
	Total   valueJSON  `json:"total"`
	Paths   []pathJSON `json:"paths,omitempty"`
}

type gateSideJSON struct {
	Title  string   `json:"title"`
	Runs   []string `json:"runs"`
	Spread float64  `json:"spread"`
}

// writeJSON writes all that is known. Values are as they compare: per operation, second or run.
func (g *gating) writeJSON(w io.Writer) error {
	r := g.report
	var sides [2]gateSideJSON
	for i, s := range g.sides {
		sides[i] = gateSideJSON{Title: s.title, Spread: r.Spread[i]}
		for _, run := range s.runs {
			sides[i].Runs = append(sides[i].Runs, run.title)
		}
	}
	row := func(r *gate.Row) rowJSON {
		out := rowJSON{r.Name, r.File, r.Line, r.Mapping, kindName(r.Kind), r.Status.String(), "self", r.Share, r.Was, r.Causes, newValueJSON(&r.Self), newValueJSON(&r.Total), nil}
		if r.ByTotal {
			out.Of = "total"
		}
		for _, p := range r.Paths {
			out.Paths = append(out.Paths, pathJSON(p))
		}
		return out
	}
	rows := make([]rowJSON, len(r.Rows))
	for i := range r.Rows {
		rows[i] = row(&r.Rows[i])
	}
	o := r.Options
	return printJSON(w, struct {
		Verdict       string       `json:"verdict"`
		Why           string       `json:"why,omitempty"`
		Type          string       `json:"type"`
		Unit          string       `json:"unit"`
		Scale         string       `json:"scale"`
		Baseline      gateSideJSON `json:"baseline"`
		Candidate     gateSideJSON `json:"candidate"`
		MaxRegression float64      `json:"max_regression"`
		MinShare      float64      `json:"min_share"`
		FDR           float64      `json:"fdr"`
		Confidence    float64      `json:"confidence"`
		Paired        bool         `json:"paired"`
		Tested        int          `json:"tested"`
		Relabellings  int          `json:"relabellings"`
		Exact         bool         `json:"exact"`
		Effect        *float64     `json:"could_see,omitempty"`
		RunsWanted    int          `json:"runs_wanted,omitempty"`
		Warnings      []string     `json:"warnings,omitempty"`
		Everything    rowJSON      `json:"everything"`
		Functions     []rowJSON    `json:"functions"`
	}{r.Verdict.String(), r.Why, g.c.typ.String(), g.c.typ.SampleUnit, g.c.scale, sides[0], sides[1], o.MaxRegression, o.MinShare, o.FDR, o.Confidence, o.Paired,
		r.Tested, r.Relabellings, r.Exact, finite(r.Effect), r.RunsWanted, r.Warnings, row(&r.All), rows})
}

// message says of a row in a sentence what became of it, with its paths.
func (g *gating) message(r *gate.Row) string {
	c := g.cells(r)
	s := fmt.Sprintf("%s: %s %s → %s, %s (%s), p %s", printable(r.Name), c[1], c[2], c[3], c[4], c[5], c[6])
	if n := note(r); n != "" {
		s += "; " + n
	}
	for _, p := range r.Paths {
		s += fmt.Sprintf("\n%s %s", g.c.formatChange(p.Candidate-p.Baseline), printable(strings.Join(p.Functions, " → ")))
	}
	return s
}

// The elements of JUnit's reports that CI systems read.
type (
	junitProblem struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		Failure *junitProblem `xml:"failure,omitempty"`
		Error   *junitProblem `xml:"error,omitempty"`
		Out     string        `xml:"system-out,omitempty"`
	}
	junitSuite struct {
		XMLName  xml.Name    `xml:"testsuite"`
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
)

// writeJUnit writes one test per function that counts, and one for whether these runs can tell anything.
func (g *gating) writeJUnit(w io.Writer) error {
	s := junitSuite{Name: "profilectl gate " + g.c.typ.SampleType}
	can := junitCase{Class: s.Name, Name: "runs that can tell", Out: strings.Join(g.about(), "\n") + "\n" + g.power()}
	if g.report.Verdict == gate.CouldNotTell {
		can.Error = &junitProblem{Message: printable(g.report.Why), Type: "could not tell"}
		s.Errors++
	}
	s.Cases = append(s.Cases, can)
	for i := range g.report.Rows {
		r := &g.report.Rows[i]
		c := junitCase{Class: s.Name, Name: printable(r.Name)}
		if r.Mapping != "" {
			c.Class = printable(baseName(r.Mapping))
		}
		if r.Status == gate.Slower {
			c.Failure = &junitProblem{Message: fmt.Sprintf("slower by more than %s for sure", percentage(g.limitOf())), Type: "regression", Text: g.message(r)}
			s.Failures++
		} else if r.Status != gate.Same {
			c.Out = r.Status.String() + ": " + g.message(r)
		}
		s.Cases = append(s.Cases, c)
	}
	s.Tests = len(s.Cases)
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(struct {
		XMLName xml.Name     `xml:"testsuites"`
		Suites  []junitSuite `xml:"testsuite"`
	}{Suites: []junitSuite{s}}); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// The parts of SARIF 2.1.0 that say what is wrong where.
type (
	sarifText struct {
		Text string `json:"text"`
	}
	sarifRule struct {
		ID          string    `json:"id"`
		Description sarifText `json:"shortDescription"`
	}
	sarifFile struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		Line int32 `json:"startLine"`
	}
	sarifPlace struct {
		File   sarifFile    `json:"artifactLocation"`
		Region *sarifRegion `json:"region,omitempty"`
	}
	sarifLogical struct {
		Name string `json:"fullyQualifiedName"`
		Kind string `json:"kind"`
	}
	sarifLocation struct {
		Place   *sarifPlace    `json:"physicalLocation,omitempty"`
		Logical []sarifLogical `json:"logicalLocations,omitempty"`
	}
	sarifResult struct {
		Rule         string            `json:"ruleId"`
		Level        string            `json:"level"`
		Message      sarifText         `json:"message"`
		Locations    []sarifLocation   `json:"locations,omitempty"`
		Fingerprints map[string]string `json:"partialFingerprints,omitempty"`
	}
	sarifNotice struct {
		Level   string    `json:"level"`
		Message sarifText `json:"message"`
	}
	sarifInvocation struct {
		Successful bool          `json:"executionSuccessful"`
		Notices    []sarifNotice `json:"toolExecutionNotifications,omitempty"`
	}
	sarifDriver struct {
		Name  string      `json:"name"`
		Rules []sarifRule `json:"rules"`
	}
	sarifRun struct {
		Tool struct {
			Driver sarifDriver `json:"driver"`
		} `json:"tool"`
		Invocations []sarifInvocation `json:"invocations"`
		Results     []sarifResult     `json:"results"`
	}
)

// writeSARIF writes regressions where their functions begin, for code scanning.
func (g *gating) writeSARIF(w io.Writer) error {
	var run sarifRun
	run.Tool.Driver = sarifDriver{"profilectl gate", []sarifRule{{"regression", sarifText{"A function became slower for sure"}}}}
	told := sarifInvocation{Successful: g.report.Verdict != gate.CouldNotTell}
	if !told.Successful {
		told.Notices = append(told.Notices, sarifNotice{"error", sarifText{"could not tell: " + printable(g.report.Why)}})
	}
	for _, warning := range g.report.Warnings {
		told.Notices = append(told.Notices, sarifNotice{"warning", sarifText{printable(warning)}})
	}
	run.Invocations, run.Results = []sarifInvocation{told}, []sarifResult{}
	for _, r := range g.report.Regressions() {
		at := sarifLocation{Logical: []sarifLogical{{r.Name, "function"}}}
		if uri := sourceURI(r.File); uri != "" {
			at.Place = &sarifPlace{File: sarifFile{uri}}
			if r.Line > 0 {
				at.Place.Region = &sarifRegion{r.Line}
			}
		}
		run.Results = append(run.Results, sarifResult{"regression", "error", sarifText{g.message(&r)}, []sarifLocation{at}, map[string]string{"function/v1": strings.TrimSpace(baseName(r.Mapping) + " " + r.Name)}})
	}
	return printJSON(w, struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}})
}

// sourceURI is the path of a source file below the current folder, which CI starts in the repository's: builds have it
// below another folder, or below the module's name. "" if there is no such file.
func sourceURI(file string) string {
	for rest := filepath.ToSlash(file); rest != ""; _, rest, _ = strings.Cut(rest, "/") {
		if strings.HasPrefix(rest, "/") || strings.Contains(rest, "..") {
			continue
		}
		if st, err := os.Stat(filepath.FromSlash(rest)); err == nil && st.Mode().IsRegular() {
			return rest
		}
	}
	return ""
}
