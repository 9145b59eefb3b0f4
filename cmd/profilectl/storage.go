package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/profile"
)

func (a *app) storage() *cobra.Command {
	var (
		outFlag            string
		limit, top, series int
	)
	cmd := &cobra.Command{
		Use:   "storage",
		Short: "Show how the server's storage is: state, sizes, blocks, labels with most values",
		Long: `Show how the server's storage is: whether it takes profiles in, how much it keeps, its blocks, the newest first,
and the labels with most values.

A row is one profile, or a part of a very large one. Generation 0 is a block as it was written first; blocks of
later generations were made of others. When all profiles of a series have been dropped, it stays among series and
labels until the dictionary forgets it.

With -o json the answer is the server's own, whole.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := parseOutput(outFlag, listForms)
			if err != nil {
				return err
			}
			for _, f := range []struct {
				name      string
				value, to int
			}{{"--limit", limit, 1 << 30}, {"--top", top, 1000}, {"--series", series, 1000}} {
				if f.value < 0 || f.value > f.to {
					return usage("%s %d: want a number from 0 to %d", f.name, f.value, f.to)
				}
			}
			raw, err := a.get(cmd.Context(), "asking for the state of the storage", fmt.Sprintf("/debug/storage?top=%d&series=%d", top, series))
			if err != nil {
				return err
			}
			var o storageOverview
			if err := json.Unmarshal(raw, &o); err != nil {
				return &hintError{fmt.Errorf("asking for the state of the storage: the answer of %s: %w", a.server, err), olderServer}
			}
			return out.write(a, func(w io.Writer) error {
				if out.form == formJSON {
					var indented bytes.Buffer
					if err := json.Indent(&indented, raw, "", "  "); err != nil {
						return err
					}
					_, err := fmt.Fprintln(w, strings.TrimSpace(indented.String()))
					return err
				}
				s := storageText{storageOverview: o, term: a.outTerm, now: a.now(), limit: limit}
				_, err := io.WriteString(w, s.text(series > 0))
				return err
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "at most so many blocks, the newest first; 0 means all")
	cmd.Flags().IntVar(&top, "top", 10, "so many labels, and values of each")
	cmd.Flags().IntVar(&series, "series", 0, "also list so many of the series with most samples: the server looks at every block for that")
	cmd.Flags().StringVarP(&outFlag, "output", "o", formTable, "form: table or json")
	return cmd
}

// storageOverview is the server's answer, as storage/frost says it. It is written down once more because FrostDB and
// Arrow would come along with the store.
type storageOverview struct {
	ReadOnly        string `json:"read_only"`
	ReadOnlyReason  string `json:"read_only_reason"`
	LastError       string `json:"last_error"`
	CompactionError string `json:"compaction_error"`

	Series      int   `json:"series"`
	Stacks      int64 `json:"stacks"`
	Rows        int64 `json:"rows"`
	Samples     int64 `json:"samples"`
	BlockBytes  int64 `json:"block_bytes"`
	LogSegments int   `json:"log_segments"`
	LogBytes    int64 `json:"log_bytes"`
	Head        struct {
		Rows    int64 `json:"rows"`
		Samples int64 `json:"samples"`
		Bytes   int64 `json:"bytes"`
		Series  int   `json:"series"`
	} `json:"head"`
	HeadsWaiting int             `json:"heads_waiting"`
	Blocks       []blockOverview `json:"blocks"`
	Dictionary   []struct {
		Table                  string
		Entries, Bytes, Memory int64
	} `json:"dictionary"`
	DictionaryHoles int `json:"dictionary_holes"`
	DictionaryFiles int `json:"dictionary_files"`
	Forgetting      struct {
		Entries int64      `json:"entries"`
		Last    *time.Time `json:"last"`
		Error   string     `json:"error"`
	} `json:"forgetting"`
	UploadsPending int        `json:"uploads_pending"`
	UploadBytes    int64      `json:"upload_bytes"`
	UploadsSince   *time.Time `json:"uploads_since"`
	UploadError    string     `json:"upload_error"`
	Losses         []string   `json:"losses"`

	Cardinality struct {
		Series int           `json:"series"`
		Types  []seriesCount `json:"types"`
		Labels []struct {
			Name   string        `json:"name"`
			Values int           `json:"values"`
			Series int           `json:"series"`
			Top    []seriesCount `json:"top"`
		} `json:"labels"`
		LabelNames int `json:"label_names"`
		TypeNames  int `json:"type_names"`
	} `json:"cardinality"`
	Heaviest []struct {
		Type    string `json:"type"`
		Labels  string `json:"labels"`
		Rows    int64  `json:"rows"`
		Samples int64  `json:"samples"`
	} `json:"heaviest_series"`
}

type blockOverview struct {
	Name       string    `json:"name"`
	Generation uint32    `json:"generation"`
	Remote     bool      `json:"remote"`
	First      time.Time `json:"first"`
	Last       time.Time `json:"last"`
	Rows       int64     `json:"rows"`
	Samples    int64     `json:"samples"`
	Bytes      int64     `json:"bytes"`
	Series     int       `json:"series"`
}

type seriesCount struct {
	Value  string `json:"value"`
	Series int    `json:"series"`
}

const olderServer = "Is it a Perfuse server, and as new as this profilectl?"

// get fetches a page of the server's. Errors are those of explain.
func (a *app) get(ctx context.Context, what, path string) ([]byte, error) {
	server, err := a.serverURL()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+path, nil)
	if err != nil {
		return nil, usage("--server %q: want a URL like %s", a.server, defaultServer)
	}
	failed := func(err error) error {
		code := connect.CodeUnavailable
		if ctx.Err() == context.DeadlineExceeded {
			code = connect.CodeDeadlineExceeded
		}
		var outer *url.Error
		if errors.As(err, &outer) {
			err = outer.Err // the method and the URL are said already
		}
		return a.explain(what, server, connect.NewError(code, err))
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, failed(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil {
		return nil, failed(err)
	}
	text := fit(printable(strings.TrimSpace(string(body[:min(len(body), 1000)]))), 200)
	switch resp.StatusCode {
	case http.StatusOK:
		return body, nil
	case http.StatusServiceUnavailable:
		return nil, fmt.Errorf("%s: the server at %s is not ready: %s", what, server, text)
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return nil, &hintError{fmt.Errorf("%s: %s answers, but has no page %s: %s", what, server, strings.SplitN(path, "?", 2)[0], text), olderServer}
	}
	return nil, fmt.Errorf("%s: the server at %s answers: %s: %s", what, server, resp.Status, text)
}

// storageText is what people see of the storage.
type storageText struct {
	storageOverview
	term  terminal
	now   time.Time
	limit int
}

// text is all of it; heaviest says that the series with most samples were asked for.
func (s *storageText) text(heaviest bool) string {
	var b strings.Builder
	b.WriteString(s.state())
	b.WriteString(s.totals())
	if s.Rows == 0 && len(s.Blocks) == 0 {
		b.WriteString("\nNothing is kept yet. Start an agent with 'perfuse up' or 'perfuse agent', or send some with 'profilectl upload'.\n")
		return b.String()
	}
	b.WriteString(s.blocks())
	b.WriteString(s.labels())
	if heaviest {
		b.WriteString(s.heaviest())
	}
	return b.String()
}

// line is a name and what it is about, wrapped to the terminal's width.
func (s *storageText) line(name, style, text string) string {
	const indent = 12
	var b strings.Builder
	b.WriteString(s.term.style(styleBold, padRight(name, indent)))
	for i, l := range wrap(printable(text), s.term.width-indent) {
		if i > 0 {
			b.WriteString(strings.Repeat(" ", indent))
		}
		b.WriteString(s.term.style(style, l) + "\n")
	}
	return b.String()
}

// state says whether the store works, and what to do if it does not.
func (s *storageText) state() string {
	text := ""
	switch {
	case s.ReadOnly == "":
		text += s.line("State", "", "takes profiles in")
	default:
		text += s.line("State", styleRed, "READ-ONLY, profiles are refused: "+s.ReadOnly)
		text += s.line("", "", map[string]string{
			"disk_full": "Make room on its disk, or have it keep less (storage.retention, storage.max_bytes). It goes on by itself when there is room.",
			"io_error":  "Look after its disk. It goes on by itself when that works again.",
			"broken":    "Start the server again; its log says what happened.",
		}[s.ReadOnlyReason])
	}
	for _, e := range []struct{ name, text string }{{"Last error", s.LastError}, {"Compaction", s.CompactionError}, {"Forgetting", s.Forgetting.Error}} {
		if e.text != "" {
			text += s.line(e.name, styleRed, e.text)
		}
	}
	if s.UploadsPending > 0 || s.UploadError != "" {
		wait := fmt.Sprintf("%d blocks to copy or to delete wait for object storage, %s", s.UploadsPending, profile.FormatValue(s.UploadBytes, "bytes"))
		if s.UploadsSince != nil {
			wait += ", for " + age(s.now.Sub(*s.UploadsSince))
		}
		style := ""
		if s.UploadError != "" {
			wait += ": " + s.UploadError
			style = styleRed
		}
		text += s.line("Uploads", style, wait)
	}
	for _, l := range s.Losses {
		text += s.line("Lost", styleRed, l)
	}
	return text
}

// totals says how much there is and what it takes.
func (s *storageText) totals() string {
	bytes := func(n int64) string { return profile.FormatValue(n, "bytes") }
	count := func(n int64) string { return profile.FormatValue(n, "count") }
	kept := fmt.Sprintf("%s samples in %s rows, %s series known, %s stacks", count(s.Samples), count(s.Rows), count(int64(s.Series)), count(s.Stacks))
	if first, last := s.span(); !first.IsZero() {
		kept += fmt.Sprintf(", %s to %s", first.Format(time.RFC3339), last.Format(time.RFC3339))
	}
	text := s.line("Kept", "", kept)
	blocks := fmt.Sprintf("%s in %s", bytes(s.BlockBytes), plural(int64(len(s.Blocks)), "block"))
	if samples := s.Samples - s.Head.Samples; samples > 0 {
		blocks += fmt.Sprintf(", %s bytes a sample", perSample(s.BlockBytes, samples))
	}
	text += s.line("Blocks", "", blocks)
	text += s.line("Log", "", fmt.Sprintf("%s in %s", bytes(s.LogBytes), plural(int64(s.LogSegments), "segment")))
	head := fmt.Sprintf("%s samples in %s rows of %s, %s: in memory and in the log, not in a block yet", count(s.Head.Samples), count(s.Head.Rows),
		plural(int64(s.Head.Series), "series"), bytes(s.Head.Bytes))
	if s.HeadsWaiting > 0 {
		head += fmt.Sprintf("; %d complete, waiting to become a block", s.HeadsWaiting)
	}
	text += s.line("Head", "", head)
	var size, memory int64
	var tables []string
	for _, t := range s.Dictionary {
		size += t.Bytes
		memory += t.Memory
		noun := t.Table
		if t.Entries == 1 && noun != "series" {
			noun = strings.TrimSuffix(noun, "s")
		}
		tables = append(tables, count(t.Entries)+" "+noun)
	}
	dictionary := bytes(size)
	if s.DictionaryFiles > 0 {
		dictionary += " in " + plural(int64(s.DictionaryFiles), "file")
	}
	if memory > 0 {
		dictionary += ", " + bytes(memory) + " in memory"
	}
	if len(tables) > 0 {
		dictionary += ": " + strings.Join(tables, ", ")
	}
	if f := s.Forgetting; f.Entries > 0 && f.Last != nil {
		dictionary += fmt.Sprintf("; %s that nothing refers to were forgotten, the last %s ago", count(f.Entries), age(s.now.Sub(*f.Last)))
	}
	if s.DictionaryHoles > 0 {
		dictionary += fmt.Sprintf("; %s lost with a part of the log", count(int64(s.DictionaryHoles)))
	}
	return text + s.line("Dictionary", "", dictionary)
}

// span is the time that the blocks are about.
func (s *storageText) span() (first, last time.Time) {
	for _, b := range s.Blocks {
		if first.IsZero() || b.First.Before(first) {
			first = b.First
		}
		if b.Last.After(last) {
			last = b.Last
		}
	}
	return first.In(s.now.Location()), last.In(s.now.Location())
}

func (s *storageText) blocks() string {
	if len(s.Blocks) == 0 {
		return "\nThere are no blocks yet: everything is in the log.\n"
	}
	list := slices.Clone(s.Blocks)
	slices.SortStableFunc(list, func(a, b blockOverview) int {
		return cmp.Or(b.Last.Compare(a.Last), b.First.Compare(a.First), cmp.Compare(a.Name, b.Name))
	})
	shown := list
	if s.limit > 0 {
		shown = list[:min(len(list), s.limit)]
	}
	t := table{
		head:  []string{"FROM", "LASTS", "ROWS", "SAMPLES", "BYTES", "B/SAMPLE", "SERIES", "GEN", "BLOCK"},
		right: []bool{false, true, true, true, true, true, true, true, false},
	}
	for _, b := range shown {
		name := printable(b.Name)
		if b.Remote {
			name = "remote " + name
		}
		t.add(b.First.In(s.now.Location()).Format("2006-01-02 15:04"), age(b.Last.Sub(b.First)),
			profile.FormatValue(b.Rows, "count"), profile.FormatValue(b.Samples, "count"), profile.FormatValue(b.Bytes, "bytes"),
			perSample(b.Bytes, b.Samples), profile.FormatValue(int64(b.Series), "count"), fmt.Sprint(b.Generation), name)
	}
	text := "\n" + t.text(s.term)
	if n := len(list) - len(shown); n > 0 {
		var size int64
		for _, b := range list[len(shown):] {
			size += b.Bytes
		}
		text += s.note(fmt.Sprintf("… and %s, %s; --limit shows more", plural(int64(n), "older block"), profile.FormatValue(size, "bytes")))
	}
	return text
}

func (s *storageText) note(text string) string {
	return s.term.style(styleDim, fit(text, s.term.width)) + "\n"
}

func (s *storageText) labels() string {
	c := s.Cardinality
	if len(c.Labels) == 0 {
		if n := c.LabelNames; n > 0 {
			return "\n" + s.note(fmt.Sprintf("%s; --top shows them", plural(int64(n), "label")))
		}
		return ""
	}
	t := table{head: []string{"LABEL", "VALUES", "SERIES", "VALUES WITH MOST SERIES"}, right: []bool{false, true, true, false}}
	for _, l := range c.Labels {
		var values []string
		for _, v := range l.Top {
			values = append(values, fmt.Sprintf("%s (%d)", printable(v.Value), v.Series))
		}
		if n := l.Values - len(l.Top); n > 0 {
			values = append(values, fmt.Sprintf("%d more", n))
		}
		t.add(printable(l.Name), fmt.Sprint(l.Values), fmt.Sprint(l.Series), strings.Join(values, ", "))
	}
	text := "\n" + t.text(s.term)
	if n := c.LabelNames - len(c.Labels); n > 0 {
		text += s.note(fmt.Sprintf("… and %s with fewer values; --top shows more", plural(int64(n), "label")))
	}
	types := table{head: []string{"SERIES", "TYPE"}, right: []bool{true, false}}
	for _, v := range c.Types {
		types.add(fmt.Sprint(v.Series), printable(v.Value))
	}
	text += "\n" + types.text(s.term)
	if n := c.TypeNames - len(c.Types); n > 0 {
		text += s.note(fmt.Sprintf("… and %s with fewer series; --top shows more", plural(int64(n), "type")))
	}
	return text
}

func (s *storageText) heaviest() string {
	if s.Heaviest == nil {
		return "\n" + s.note("The server does not tell which series have most samples: it is older than this profilectl.")
	}
	t := table{head: []string{"SAMPLES", "SHARE", "ROWS", "SERIES AND TYPE"}, right: []bool{true, true, true, false}}
	for _, h := range s.Heaviest {
		t.add(profile.FormatValue(h.Samples, "count"), profile.FormatShare(h.Samples, s.Samples), profile.FormatValue(h.Rows, "count"),
			printable(h.Labels+" "+h.Type))
	}
	return "\n" + t.text(s.term)
}

// perSample is how many bytes a sample takes.
func perSample(bytes, samples int64) string {
	if samples == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", float64(bytes)/float64(samples))
}

// age is a duration in its two largest units, for people.
func age(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return d.Round(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 2*day:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/day, d%day/time.Hour)
}

// wrap breaks text at spaces into lines of at most width columns, where that is possible; a width below 20 means any.
func wrap(text string, width int) []string {
	if width < 20 {
		return []string{text}
	}
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
