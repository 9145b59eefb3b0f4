package datasource

import (
	"encoding/json"
	"net/url"
	"strings"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/backend/gtime"
)

const (
	// defaultMinStep is the interval at which agents send.
	defaultMinStep = 10 * time.Second
	// defaultAnswerMiB is more than any panel can draw.
	defaultAnswerMiB = 64
	maxAnswerMiB     = 1024
)

// settings are what the data source's page says. How to connect (TLS, timeouts, passwords) the SDK reads itself.
type settings struct {
	uid, name   string
	url         string
	bearer      string
	minStep     time.Duration
	answerBytes int
}

func readSettings(in backend.DataSourceInstanceSettings) (settings, error) {
	wrong := func(format string, args ...any) (settings, error) {
		return settings{}, backend.DownstreamErrorf("settings of data source %q: "+format, append([]any{in.Name}, args...)...)
	}
	var file struct {
		MinStep   string `json:"minStep"`
		AnswerMiB int    `json:"answerMiB"`
	}
	if len(in.JSONData) > 0 {
		if err := json.Unmarshal(in.JSONData, &file); err != nil {
			return wrong("reading jsonData: %w", err)
		}
	}
	s := settings{uid: in.UID, name: in.Name, bearer: in.DecryptedSecureJSONData["bearerToken"], minStep: defaultMinStep, answerBytes: defaultAnswerMiB << 20}
	u, err := url.Parse(in.URL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return wrong("the URL is %q: want that of a Perfuse server, as in http://127.0.0.1:7070", in.URL)
	}
	s.url = strings.TrimSuffix(in.URL, "/")
	if s.bearer != "" && in.BasicAuthEnabled {
		return wrong("both a bearer token and basic authentication: a request has one Authorization header, choose one of them")
	}
	if file.MinStep != "" {
		if s.minStep, err = gtime.ParseDuration(file.MinStep); err != nil || s.minStep <= 0 {
			return wrong("the least step is %q: want a duration, as in 10s", file.MinStep)
		}
	}
	if file.AnswerMiB < 0 || file.AnswerMiB > maxAnswerMiB {
		return wrong("the largest answer is %d MiB: want 1 to %d, or 0 for %d", file.AnswerMiB, maxAnswerMiB, defaultAnswerMiB)
	}
	if file.AnswerMiB > 0 {
		s.answerBytes = file.AnswerMiB << 20
	}
	return s, nil
}
