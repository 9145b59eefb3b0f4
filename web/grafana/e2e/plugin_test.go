package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend/grpcplugin"
	"github.com/grafana/grafana-plugin-sdk-go/data"
	"github.com/grafana/grafana-plugin-sdk-go/genproto/pluginv2"
	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
)

// plugin is the back end's process, as Grafana holds it.
type plugin struct {
	data        pluginv2.DataClient
	diagnostics pluginv2.DiagnosticsClient
	resource    pluginv2.ResourceClient
	stream      pluginv2.StreamClient
	// source is what Grafana sends with each request: the settings of the data source.
	source *pluginv2.DataSourceInstanceSettings
}

func startPlugin(t *testing.T, url string) *plugin {
	t.Helper()
	path, err := backend()
	if err != nil {
		t.Fatal(err)
	}
	out := &said{}
	client := goplugin.NewClient(&goplugin.ClientConfig{
		Cmd: exec.Command(path),
		HandshakeConfig: goplugin.HandshakeConfig{
			ProtocolVersion: grpcplugin.ProtocolVersion, MagicCookieKey: grpcplugin.MagicCookieKey, MagicCookieValue: grpcplugin.MagicCookieValue,
		},
		VersionedPlugins: map[int]goplugin.PluginSet{grpcplugin.ProtocolVersion: {
			"data": &grpcplugin.DataGRPCPlugin{}, "diagnostics": &grpcplugin.DiagnosticsGRPCPlugin{},
			"resource": &grpcplugin.ResourceGRPCPlugin{}, "stream": &grpcplugin.StreamGRPCPlugin{},
		}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		Logger:           hclog.New(&hclog.LoggerOptions{Output: out, Level: hclog.Info}),
		SyncStderr:       out,
	})
	t.Cleanup(func() {
		client.Kill()
		if !client.Exited() {
			t.Error("the plugin did not end")
		}
		if t.Failed() {
			t.Logf("the plugin said:\n%s", out)
		}
	})
	protocol, err := client.Client()
	if err != nil {
		t.Fatal(err)
	}
	p := &plugin{source: &pluginv2.DataSourceInstanceSettings{Id: 1, Uid: "perfuse", Name: "Perfuse", Url: url, JsonData: []byte("{}"), LastUpdatedMS: 1}}
	p.data = dispense[pluginv2.DataClient](t, protocol, "data")
	p.diagnostics = dispense[pluginv2.DiagnosticsClient](t, protocol, "diagnostics")
	p.resource = dispense[pluginv2.ResourceClient](t, protocol, "resource")
	p.stream = dispense[pluginv2.StreamClient](t, protocol, "stream")
	return p
}

func dispense[T any](t *testing.T, protocol goplugin.ClientProtocol, name string) T {
	t.Helper()
	raw, err := protocol.Dispense(name)
	if err != nil {
		t.Fatal(err)
	}
	out, ok := raw.(T)
	if !ok {
		t.Fatalf("%s is a %T", name, raw)
	}
	return out
}

// changes counts settings: the plugin makes a data source anew if Grafana says that its settings are of another time.
var changes atomic.Int64

// with returns the same process asked with other settings.
func (p *plugin) with(change func(*pluginv2.DataSourceInstanceSettings)) *plugin {
	other := *p
	other.source = &pluginv2.DataSourceInstanceSettings{
		Id: p.source.Id, Uid: p.source.Uid, Name: p.source.Name, Url: p.source.Url, JsonData: p.source.JsonData, LastUpdatedMS: 1 + changes.Add(1),
	}
	change(other.source)
	return &other
}

func (p *plugin) context() *pluginv2.PluginContext {
	return &pluginv2.PluginContext{OrgId: 1, PluginId: "perfuse-profiling-datasource", DataSourceInstanceSettings: p.source}
}

type fields = map[string]any

// ask asks one query about all that tests load.
func (p *plugin) ask(t *testing.T, kind string, q fields) *pluginv2.DataResponse {
	t.Helper()
	from, to := span()
	return p.askAbout(t, kind, q, from, to)
}

func (p *plugin) askAbout(t *testing.T, kind string, q fields, from, to time.Time) *pluginv2.DataResponse {
	t.Helper()
	raw, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := p.data.QueryData(t.Context(), &pluginv2.QueryDataRequest{PluginContext: p.context(), Queries: []*pluginv2.DataQuery{{
		RefId: "A", QueryType: kind, Json: raw, IntervalMS: 15_000, MaxDataPoints: 500,
		TimeRange: &pluginv2.TimeRange{FromEpochMS: from.UnixMilli(), ToEpochMS: to.UnixMilli()},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	out := resp.Responses["A"]
	if out == nil {
		t.Fatalf("no response for A: %v", resp)
	}
	return out
}

// frames are those of an answer without error.
func frames(t *testing.T, resp *pluginv2.DataResponse) data.Frames {
	t.Helper()
	if resp.Error != "" || resp.Status != http.StatusOK {
		t.Fatalf("status %d, error %q", resp.Status, resp.Error)
	}
	out, err := data.UnmarshalArrowFrames(resp.Frames)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// get asks for a resource.
func (p *plugin) get(t *testing.T, path string, in url.Values) (status int, body string) {
	t.Helper()
	stream, err := p.resource.CallResource(t.Context(), &pluginv2.CallResourceRequest{
		PluginContext: p.context(), Path: path, Method: http.MethodGet, Url: path + "?" + in.Encode(),
	})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return int(resp.Code), string(resp.Body)
}

// column is a field's values as numbers or text.
func column[T any](t *testing.T, f *data.Frame, name string) []T {
	t.Helper()
	field, _ := f.FieldByName(name)
	if field == nil {
		t.Fatalf("the frame has no field %s, only %v", name, f.Fields)
	}
	out := make([]T, field.Len())
	for i := range out {
		v, ok := field.At(i).(T)
		if !ok {
			t.Fatalf("field %s is of type %s", name, field.Type())
		}
		out[i] = v
	}
	return out
}
