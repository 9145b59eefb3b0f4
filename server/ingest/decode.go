package ingest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	profilestorev1alpha1 "github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1"
	pushv1 "github.com/perfuse/perfuse/proto/push/v1"
	"github.com/perfuse/perfuse/server/limits"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// estimate says, before anything is allocated, how many bytes of memory decoding a body would take, and
// refuses what is empty, broken or would exceed lim.DecodedBytes.
func estimate(body []byte, json bool, lim *limits.Limits) (cost int64, err error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return 0, invalid("the body is empty: want an ExportProfilesServiceRequest")
	}
	if json {
		cost = jsonCost(body)
	} else if cost, err = wireCost(body); err != nil {
		return 0, invalid("the body is not an ExportProfilesServiceRequest in protobuf: %v", err)
	}
	return cost, limits.Count(limits.DecodedBytes, cost, lim.DecodedBytes, "the request would take about %d bytes of memory", cost)
}

// decode reads a body that estimate let pass.
func decode(body []byte, json bool) (*collectorv1.ExportProfilesServiceRequest, error) {
	req := new(collectorv1.ExportProfilesServiceRequest)
	if !json {
		if err := proto.Unmarshal(body, req); err != nil {
			return nil, invalid("the body is not an ExportProfilesServiceRequest in protobuf: %v", err)
		}
		return req, nil
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: maxDepth}).Unmarshal(body, req); err != nil {
		return nil, invalid("the body is not an ExportProfilesServiceRequest in JSON: %v", err)
	}
	return req, unhexIDs(req)
}

// unhexIDs undoes what protobuf's own JSON does to OTLP's: OTLP writes ids in hex, protobuf reads bytes as
// base64. 32 and 16 hex digits are valid base64 of 24 and 12 bytes, so encoding these gives the digits back.
func unhexIDs(req *collectorv1.ExportProfilesServiceRequest) error {
	fix := func(b []byte, size int, where string) ([]byte, error) {
		if len(b) != size*3/2 {
			return b, nil
		}
		id, err := hex.DecodeString(base64.StdEncoding.EncodeToString(b))
		if err != nil {
			return nil, invalid("%s: want %d hex digits", where, size*2)
		}
		return id, nil
	}
	var err error
	for i, l := range req.GetDictionary().GetLinkTable() {
		if l.TraceId, err = fix(l.TraceId, 16, fmt.Sprintf("dictionary.link_table[%d].trace_id", i)); err != nil {
			return err
		}
		if l.SpanId, err = fix(l.SpanId, 8, fmt.Sprintf("dictionary.link_table[%d].span_id", i)); err != nil {
			return err
		}
	}
	for _, rp := range req.GetResourceProfiles() {
		for _, sp := range rp.GetScopeProfiles() {
			for _, p := range sp.GetProfiles() {
				if p.ProfileId, err = fix(p.ProfileId, 16, "profile_id"); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// What decoded things cost in memory: a generated message with its pointer, a string's or a slice's header,
// an element of a list of numbers.
const (
	messageCost = 176
	stringCost  = 16
	numberCost  = 8
	maxDepth    = 64
)

// jsonCost counts what can become a message or an element. It over-estimates where names contain braces.
func jsonCost(body []byte) int64 {
	return int64(len(body)) + messageCost*int64(bytes.Count(body, []byte{'{'})) + (stringCost+numberCost)*int64(bytes.Count(body, []byte{','}))
}

// shape says what a length-delimited field holds.
type shape struct {
	kind   shapeKind
	fields map[protowire.Number]*shape // of a message; fields that are missing here are kept as raw bytes
}

type shapeKind uint8

const (
	raw     shapeKind = iota // text or bytes
	varints                  // packed numbers of one byte or more
	message
)

// requestShape, pushShape and writeRawShape are the length-delimited fields of what is decoded.
var (
	requestShape  = shapeOf((*collectorv1.ExportProfilesServiceRequest)(nil).ProtoReflect().Descriptor(), map[protoreflect.FullName]*shape{})
	pushShape     = shapeOf((*pushv1.PushRequest)(nil).ProtoReflect().Descriptor(), map[protoreflect.FullName]*shape{})
	writeRawShape = shapeOf((*profilestorev1alpha1.WriteRawRequest)(nil).ProtoReflect().Descriptor(), map[protoreflect.FullName]*shape{})
)

// shapeOf returns the shape of a message; known has those that were met, since messages contain each other.
func shapeOf(m protoreflect.MessageDescriptor, known map[protoreflect.FullName]*shape) *shape {
	if s := known[m.FullName()]; s != nil {
		return s
	}
	s := &shape{kind: message, fields: map[protowire.Number]*shape{}}
	known[m.FullName()] = s
	for i := range m.Fields().Len() {
		switch f := m.Fields().Get(i); f.Kind() {
		case protoreflect.MessageKind:
			s.fields[f.Number()] = shapeOf(f.Message(), known)
		case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
			// As many bytes in memory as on the wire.
		default:
			s.fields[f.Number()] = &shape{kind: varints}
		}
	}
	return s
}

// wireCost estimates what decoding a request costs, in bytes, by walking over it without decoding.
func wireCost(body []byte) (int64, error) {
	return requestShape.cost(body, 0)
}

// seriesCost estimates what the series of a request with pprofs cost beside its bytes: what they are decoded to, and as
// much for what is made of that.
func seriesCost(raw *rawRequest, s *shape) (cost int64, err error) {
	if raw.json {
		cost = jsonCost(raw.body)
	} else if cost, err = s.cost(raw.body, 0); err != nil {
		return 0, err
	}
	return 2 * max(cost-int64(len(raw.body)), 0), nil
}

func (s *shape) cost(b []byte, depth int) (int64, error) {
	if depth > maxDepth {
		return 0, errTooDeep
	}
	sum := int64(messageCost)
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return 0, protowire.ParseError(n)
			}
			b = b[n:]
			sum += numberCost
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		b = b[n:]
		child := s.fields[num]
		switch {
		case child == nil:
			sum += int64(len(v)) + stringCost
		case child.kind == message:
			c, err := child.cost(v, depth+1)
			if err != nil {
				return 0, err
			}
			sum += c
		default:
			for _, c := range v {
				if c < 0x80 {
					sum += numberCost
				}
			}
		}
	}
	return sum, nil
}

var errTooDeep = errors.New("messages are nested too deep")
