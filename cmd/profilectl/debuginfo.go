package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/profile"
	debuginfov1 "github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1"
	"github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1/debuginfov1connect"
	"github.com/perfuse/perfuse/symbolize/elf"
)

func (a *app) debuginfo() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "debuginfo",
		Short: "Give the server executables and debug files that it names functions from",
		Args:  exactly(),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.debuginfoUpload(), a.debuginfoList())
	return cmd
}

func (a *app) debuginfoUpload() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "upload FILE...",
		Short: "Upload executables, libraries or split debug files",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("missing FILE")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, path := range args {
				if err := a.uploadDebuginfo(cmd.Context(), path, force); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "upload also what the server already has")
	return cmd
}

// debuginfoClient returns a client, and the server's URL for errors.
func (a *app) debuginfoClient() (debuginfov1connect.DebuginfoServiceClient, string, error) {
	server, err := a.serverURL()
	if err != nil {
		return nil, "", err
	}
	return debuginfov1connect.NewDebuginfoServiceClient(a.http, server, connect.WithReadMaxBytes(maxAnswerBytes)), server, nil
}

func (a *app) uploadDebuginfo(ctx context.Context, path string, force bool) error {
	client, server, err := a.debuginfoClient()
	if err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("uploading debug information: %w", err)
	}
	defer file.Close()
	if st, err := file.Stat(); err != nil || !st.Mode().IsRegular() {
		return fmt.Errorf("uploading %s: it is no regular file", path)
	}
	if err := isELF(file); err != nil {
		return fmt.Errorf("uploading %s: %w", path, err)
	}
	id, err := elf.BuildID(file)
	if err != nil {
		return fmt.Errorf("uploading %s: %w", path, err)
	}
	what := "uploading " + path
	if !force {
		ask, cancel := context.WithTimeout(ctx, a.timeout)
		resp, err := client.Wanted(ask, &debuginfov1.WantedRequest{BuildIds: []string{id}})
		cancel()
		if err != nil {
			return a.explain(what, server, err)
		}
		if !slices.Contains(resp.BuildIds, id) {
			fmt.Fprintf(a.out, "%s  %s  the server has it\n", id, path)
			return nil
		}
	}
	var r io.Reader = file
	if st, err := file.Stat(); err == nil && a.errTerm.is {
		r = &progress{r: file, w: a.err, what: what, size: st.Size()}
	}
	size, err := streamDebuginfo(ctx, client, id, path, r)
	if a.errTerm.is {
		fmt.Fprint(a.err, "\r\x1b[K")
	}
	if err != nil {
		return a.explain(what, server, err)
	}
	fmt.Fprintf(a.out, "%s  %s  uploaded, %s\n", id, path, profile.FormatValue(size, "bytes"))
	return nil
}

// progress is a reader that says how far it is, once per MiB.
type progress struct {
	r          io.Reader
	w          io.Writer
	what       string
	size, read int64
	said       int64
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.read += int64(n)
	if p.read-p.said >= 1<<20 {
		p.said = p.read
		fmt.Fprintf(p.w, "\r\x1b[K%s: %s of %s", p.what, profile.FormatValue(p.read, "bytes"), profile.FormatValue(p.size, "bytes"))
	}
	return n, err
}

func isELF(file *os.File) error {
	var magic [4]byte
	if _, err := file.ReadAt(magic[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if string(magic[:]) != "\x7fELF" {
		return errors.New("it is no ELF file")
	}
	return nil
}

// streamDebuginfo sends the file in compressed chunks and returns its size.
func streamDebuginfo(ctx context.Context, client debuginfov1connect.DebuginfoServiceClient, id, path string, r io.Reader) (int64, error) {
	stream, err := client.Upload(ctx)
	if err != nil {
		return 0, err
	}
	err = stream.Send(&debuginfov1.UploadRequest{Data: &debuginfov1.UploadRequest_Info{Info: &debuginfov1.UploadInfo{BuildId: id, File: filepath.Base(path), Zstd: true}}})
	if err == nil {
		var zw *zstd.Encoder
		if zw, err = zstd.NewWriter(chunkWriter{stream}, zstd.WithEncoderConcurrency(1)); err == nil {
			if _, err = io.Copy(zw, r); err == nil {
				err = zw.Close()
			}
		}
	}
	// When the server ends a stream early, sending fails with io.EOF and the reason comes with the answer.
	resp, closeErr := stream.CloseAndReceive()
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if closeErr != nil {
		return 0, closeErr
	}
	return int64(resp.SizeBytes), nil
}

type chunkWriter struct {
	stream *connect.ClientStreamForClientSimple[debuginfov1.UploadRequest, debuginfov1.UploadResponse]
}

func (w chunkWriter) Write(p []byte) (int, error) {
	const chunk = 256 << 10
	for part := range slices.Chunk(p, chunk) {
		if err := w.stream.Send(&debuginfov1.UploadRequest{Data: &debuginfov1.UploadRequest_Chunk{Chunk: part}}); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (a *app) debuginfoList() *cobra.Command {
	var outFlag string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what the server has",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := parseOutput(outFlag, listForms)
			if err != nil {
				return err
			}
			client, server, err := a.debuginfoClient()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
			defer cancel()
			resp, err := client.List(ctx, &debuginfov1.ListRequest{})
			if err != nil {
				return a.explain("listing debug information", server, err)
			}
			if len(resp.Debuginfo) == 0 {
				return nothing("no debug information at %s.", a.server)
			}
			return out.write(a, func(w io.Writer) error { return writeDebuginfo(w, a.outTerm, out.form, resp.Debuginfo) })
		},
	}
	cmd.Flags().StringVarP(&outFlag, "output", "o", formTable, "form: table or json")
	return cmd
}

func writeDebuginfo(w io.Writer, term terminal, form string, list []*debuginfov1.Debuginfo) error {
	if form == formJSON {
		type row struct {
			BuildID    string    `json:"build_id"`
			File       string    `json:"file"`
			State      string    `json:"state"`
			Error      string    `json:"error,omitempty"`
			SizeBytes  uint64    `json:"size_bytes"`
			IndexBytes uint64    `json:"index_bytes"`
			Uploaded   time.Time `json:"uploaded"`
		}
		rows := make([]row, len(list))
		for i, d := range list {
			rows[i] = row{d.BuildId, d.File, d.State, d.Error, d.SizeBytes, d.IndexBytes, time.Unix(0, d.UploadedUnixNano).UTC()}
		}
		return printJSON(w, rows)
	}
	t := table{head: []string{"BUILD ID", "SIZE", "INDEX", "STATE", "FILE"}, right: []bool{false, true, true, false, false}}
	for _, d := range list {
		state := d.State
		if d.Error != "" {
			state += ": " + printable(d.Error)
		}
		size := "-" // the server keeps the table only
		if d.SizeBytes > 0 {
			size = profile.FormatValue(int64(d.SizeBytes), "bytes")
		}
		t.add(printable(d.BuildId), size, profile.FormatValue(int64(d.IndexBytes), "bytes"), state, printable(d.File))
	}
	_, err := io.WriteString(w, t.text(term))
	return err
}
