package server

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	debuginfov1 "github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/server/limits/limitstest"
	"github.com/perfuse/perfuse/storage/storagetest"
	"github.com/perfuse/perfuse/symbolize/debuginfo"
	symelf "github.com/perfuse/perfuse/symbolize/elf"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	profilesv1 "go.opentelemetry.io/proto/otlp/profiles/v1development"
)

// TestSymbols: a profile of this very program is shown by addresses; once the program's debug information is
// uploaded, the same profile has names.
func TestSymbols(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file, err := elf.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if file.Type != elf.ET_EXEC {
		t.Skip("the test was built position-independent: its functions' addresses are not the file's")
	}
	raw, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	id, err := symelf.BuildID(raw)
	if err != nil {
		t.Fatal(err)
	}
	x, err := debuginfo.ExtractFile(exe, "")
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	var extracted bytes.Buffer
	if _, err := x.WriteTo(&extracted); err != nil {
		t.Fatal(err)
	}

	s := start(t, Options{Open: func(context.Context) (Backends, error) {
		symbols, err := debuginfo.NewStore(debuginfo.StoreOptions{Dir: filepath.Join(t.TempDir(), "debuginfo")})
		if err != nil {
			return Backends{}, err
		}
		return Backends{Store: &storagetest.Model{}, Resolver: symbols, Debuginfo: symbols, Run: symbols.Run, Close: symbols.Close}, nil
	}})
	s.awaitReady(t)

	// main;work as before, and below them this program's loadRequest, by its address alone.
	req := request("web", 4)
	d := req.Dictionary
	d.StringTable = append(d.StringTable, "/bin/server.test", "process.executable.build_id.gnu")
	d.AttributeTable = []*profilesv1.KeyValueAndUnit{{}, {KeyStrindex: 9, Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: id}}}}
	d.MappingTable = []*profilesv1.Mapping{{}, {FilenameStrindex: 8, AttributeIndices: []int32{1}}}
	d.LocationTable = append(d.LocationTable, &profilesv1.Location{MappingIndex: 1, Address: uint64(reflect.ValueOf(loadRequest).Pointer())})
	d.StackTable[1].LocationIndices = []int32{4, 2, 1}
	if _, err := otlp(t, s.Addr()).Export(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	leaves := func() []string {
		t.Helper()
		resp, err := s.query().Top(t.Context(), &queryv1.TopRequest{Selection: &queryv1.Selection{ProfileType: "samples"}})
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, f := range resp.Functions {
			if f.Self > 0 {
				out = append(out, f.Name)
			}
		}
		return out
	}
	if got := leaves(); len(got) != 2 || !strings.HasPrefix(got[0], "server.test+0x") {
		t.Errorf("before the upload: %q", got)
	}

	client := s.debuginfo(connect.WithGRPC())
	wanted, err := client.Wanted(t.Context(), &debuginfov1.WantedRequest{BuildIds: []string{id}})
	if err != nil || !slices.Equal(wanted.BuildIds, []string{id}) {
		t.Fatalf("wanted %v, %v", wanted, err)
	}
	stream, err := client.Upload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func(m *debuginfov1.UploadRequest) {
		t.Helper()
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	send(&debuginfov1.UploadRequest{Data: &debuginfov1.UploadRequest_Info{Info: &debuginfov1.UploadInfo{BuildId: id, File: exe, Zstd: true}}})
	for chunk := range slices.Chunk(limitstest.Pack(t, "zstd", extracted.Bytes()), 1<<20) {
		send(&debuginfov1.UploadRequest{Data: &debuginfov1.UploadRequest_Chunk{Chunk: chunk}})
	}
	resp, err := stream.CloseAndReceive()
	if err != nil || resp.SizeBytes != uint64(extracted.Len()) {
		t.Fatalf("uploading %d bytes: %v, %v", extracted.Len(), resp, err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		list, err := client.List(t.Context(), &debuginfov1.ListRequest{})
		if err != nil || len(list.Debuginfo) != 1 {
			t.Fatalf("list: %v, %v", list, err)
		}
		if state := list.Debuginfo[0].State; state == "indexed" {
			break
		} else if state == "failed" || time.Now().After(deadline) {
			t.Fatalf("indexing: %v", list.Debuginfo[0])
		}
	}
	if got := leaves(); len(got) != 2 || got[0] != "github.com/perfuse/perfuse/server.loadRequest" {
		t.Errorf("after the upload: %q", got)
	}
	// What is there is not wanted and not taken again; what is no ELF file is refused.
	if wanted, err := client.Wanted(t.Context(), &debuginfov1.WantedRequest{BuildIds: []string{id}}); err != nil || len(wanted.BuildIds) != 0 {
		t.Errorf("wanted again: %v, %v", wanted, err)
	}
	for id, want := range map[string]connect.Code{id: connect.CodeAlreadyExists, "0123456789": connect.CodeInvalidArgument, "no/hex": connect.CodeInvalidArgument} {
		stream, err := client.Upload(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		stream.Send(&debuginfov1.UploadRequest{Data: &debuginfov1.UploadRequest_Info{Info: &debuginfov1.UploadInfo{BuildId: id}}})
		stream.Send(&debuginfov1.UploadRequest{Data: &debuginfov1.UploadRequest_Chunk{Chunk: []byte("not an ELF file")}})
		if _, err := stream.CloseAndReceive(); connect.CodeOf(err) != want {
			t.Errorf("uploading %s: %v, want %s", id, err, want)
		}
	}
}

// TestLyingELF: files whose headers promise what is not there are refused or fail on their own; the server
// answers after each.
func TestLyingELF(t *testing.T) {
	s := start(t, Options{Open: func(context.Context) (Backends, error) {
		symbols, err := debuginfo.NewStore(debuginfo.StoreOptions{Dir: filepath.Join(t.TempDir(), "debuginfo")})
		if err != nil {
			return Backends{}, err
		}
		return Backends{Store: &storagetest.Model{}, Resolver: symbols, Debuginfo: symbols, Run: symbols.Run, Close: symbols.Close}, nil
	}})
	s.awaitReady(t)
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Phentsize: 56, Shentsize: 64,
	}
	bytesOf := func(change func(h *elf.Header64), sections ...elf.Section64) []byte {
		h := header
		h.Shoff, h.Shnum = 64, uint16(len(sections))
		change(&h)
		var b bytes.Buffer
		binary.Write(&b, binary.LittleEndian, h)
		binary.Write(&b, binary.LittleEndian, sections)
		return b.Bytes()
	}
	whole := bytesOf(func(*elf.Header64) {}, elf.Section64{}, elf.Section64{})
	client := s.debuginfo()
	for i, file := range [][]byte{
		whole[:20],
		bytesOf(func(h *elf.Header64) { h.Shoff = 1 << 62 }, elf.Section64{}),
		bytesOf(func(h *elf.Header64) { h.Shnum = 0xfeff }),
		bytesOf(func(h *elf.Header64) { h.Phoff, h.Phnum = 1<<63, 0xffff }),
		bytesOf(func(h *elf.Header64) { h.Shstrndx = 0xff }, elf.Section64{}, elf.Section64{}),
		bytesOf(func(h *elf.Header64) { h.Shentsize = 1 }, elf.Section64{}),
		bytesOf(func(*elf.Header64) {}, elf.Section64{Size: 1 << 40}), // the number of sections
		bytesOf(func(*elf.Header64) {}, elf.Section64{}, elf.Section64{Type: uint32(elf.SHT_SYMTAB), Off: 1 << 50, Size: 1 << 50, Entsize: 24, Link: 7}),
		bytesOf(func(*elf.Header64) {}, elf.Section64{}, elf.Section64{Type: uint32(elf.SHT_NOTE), Off: 64, Size: 1 << 63}),
		bytesOf(func(h *elf.Header64) { h.Shstrndx = 1 }, elf.Section64{}, elf.Section64{Name: 1 << 31, Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_COMPRESSED), Off: 64, Size: 64}),
		whole,
	} {
		id := fmt.Sprintf("%016x", i)
		stream, err := client.Upload(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		stream.Send(&debuginfov1.UploadRequest{Data: &debuginfov1.UploadRequest_Info{Info: &debuginfov1.UploadInfo{BuildId: id, File: "liar"}}})
		stream.Send(&debuginfov1.UploadRequest{Data: &debuginfov1.UploadRequest_Chunk{Chunk: file}})
		_, err = stream.CloseAndReceive()
		if err != nil && connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("file %d: %v", i, err)
		}
		for deadline := time.Now().Add(time.Minute); err == nil; time.Sleep(time.Millisecond) {
			list, err := client.List(t.Context(), &debuginfov1.ListRequest{})
			if err != nil {
				t.Fatalf("after file %d: %v", i, err)
			}
			at := slices.IndexFunc(list.Debuginfo, func(d *debuginfov1.Debuginfo) bool { return d.BuildId == id })
			if at < 0 || time.Now().After(deadline) {
				t.Fatalf("file %d: %v", i, list)
			}
			if d := list.Debuginfo[at]; d.State != "uploaded" {
				t.Logf("file %d: %s %s", i, d.State, d.Error)
				break
			}
		}
	}
	if status, _ := s.get(t, "/readyz"); status != 200 {
		t.Error("not ready any more")
	}
}
