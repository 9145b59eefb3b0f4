package frost

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/go-kit/log/level"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
)

// recent is the IDs of rows in the order in which they were written. It has the last storage.RecentIDs, and
// for a while as many again.
type recent []profile.ID

func (r *recent) add(rows []row) {
	l := *r
	for i := range rows {
		id := rows[i].id
		if id == (profile.ID{}) || len(l) > 0 && l[len(l)-1] == id {
			continue
		}
		if l = append(l, id); len(l) >= 2*storage.RecentIDs {
			l = append(l[:0], l[storage.RecentIDs:]...)
		}
	}
	*r = l
}

// lastOf returns the last IDs of lists that follow each other, each once.
func lastOf(lists ...recent) recent {
	n := 0
	for _, l := range lists {
		n += len(l)
	}
	n = min(n, storage.RecentIDs)
	seen := make(map[profile.ID]struct{}, n)
	out := make(recent, 0, n)
	for _, l := range slices.Backward(lists) {
		for _, id := range slices.Backward(l) {
			if len(out) == n {
				break
			}
			if _, ok := seen[id]; !ok {
				seen[id] = struct{}{}
				out = append(out, id)
			}
		}
	}
	slices.Reverse(out)
	return out
}

// Recent implements storage.Store.
func (s *Store) Recent(ctx context.Context) ([]profile.ID, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	s.mu.RLock()
	lists := []recent{s.filed}
	for _, h := range s.sealed {
		lists = append(lists, h.recent)
	}
	lists = append(lists, slices.Clone(s.active.recent)) // it is written to
	s.mu.RUnlock()
	return lastOf(lists...), nil
}

// recentFile has the IDs of rows that are in blocks.
const recentFile = "recent"

var recentMagic = [8]byte{'P', 'F', 'R', 'E', 'C', 'N', 'T', 1}

// fileRecent makes the file say what a head adds, and returns what it says.
func (s *Store) fileRecent(h *head) (recent, error) {
	if len(h.recent) == 0 {
		return s.filed, nil
	}
	ids := lastOf(s.filed, h.recent)
	if err := s.writeFile(s.o.Dir, recentFile, ids.encode()); err != nil {
		return nil, fmt.Errorf("keeping the recent IDs: %w", err)
	}
	return ids, nil
}

// loadRecent reads the file. Without it, as an earlier version left the directory, or with a damaged one the
// store knows the IDs of the log only.
func (s *Store) loadRecent() error {
	b, err := s.readFile(filepath.Join(s.o.Dir, recentFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the recent IDs: %w", err)
	}
	if s.filed, err = decodeRecent(b); err != nil {
		level.Error(s.o.Logger).Log("msg", "the file of recent IDs is damaged; what is delivered again now is stored again", "file", recentFile, "err", err)
	}
	return nil
}

func (r recent) encode() []byte {
	b := binary.AppendUvarint(nil, uint64(len(r)))
	for i := range r {
		b = append(b, r[i][:]...)
	}
	return seal(recentMagic, b)
}

func decodeRecent(b []byte) (recent, error) {
	body, err := unseal(recentMagic, b)
	if err != nil {
		return nil, err
	}
	d := varints{b: body}
	n := d.uvarint()
	if d.bad || n > storage.RecentIDs || len(d.b) != int(n)*len(profile.ID{}) {
		return nil, fmt.Errorf("%w: %d IDs in %d bytes", errCorruptFile, n, len(body))
	}
	out := make(recent, 0, n)
	for range n {
		out = append(out, profile.ID(d.take(len(profile.ID{}))))
	}
	return out, nil
}
