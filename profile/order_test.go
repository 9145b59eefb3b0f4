package profile

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestOrdered: a batch whose samples and dictionary are shuffled is the same file, and says the same as before.
func TestOrdered(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 4))
		b := randomBatch(r)
		for i := range b.Profiles {
			for j := range b.Profiles[i].Samples {
				b.Profiles[i].Samples[j].Link = b.Dictionary.Link(Link{SpanID: SpanID{byte(r.IntN(3))}, SpanName: oneOf(r, "", "x")})
			}
		}
		write := func(b *Batch) []byte {
			if err := b.Check(); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := WritePprof(&out, b); err != nil {
				t.Fatal(err)
			}
			return out.Bytes()
		}
		ordered := Ordered(b)
		for i := range b.Profiles {
			x, y := NewTree(b, &b.Profiles[i]), NewTree(ordered, &ordered.Profiles[i])
			if outline(x) != outline(y) {
				t.Fatalf("seed %d: got\n%s\nwant\n%s", seed, outline(y), outline(x))
			}
		}
		shuffled := &Batch{Dictionary: NewDictionary()}
		im := NewImporter(shuffled.Dictionary, b.Dictionary)
		for _, i := range r.Perm(len(b.Dictionary.Frames)) {
			im.Frame(FrameIndex(i))
		}
		for _, p := range b.Profiles {
			q := p
			q.Samples = nil
			for _, i := range r.Perm(len(p.Samples)) {
				s := p.Samples[i]
				s.Stack, s.Link = im.Stack(s.Stack), im.Link(s.Link)
				q.Samples = append(q.Samples, s)
			}
			shuffled.Profiles = append(shuffled.Profiles, q)
		}
		if !bytes.Equal(write(ordered), write(Ordered(shuffled))) {
			t.Fatalf("seed %d: the order of what comes in is seen in what goes out", seed)
		}
	}
}
