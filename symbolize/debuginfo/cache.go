package debuginfo

import (
	"container/list"
	"errors"
	"sync"

	"github.com/perfuse/perfuse/symbolize/table"
)

// tableCache keeps a bounded number of tables mapped, those that were used last. A table that is in use stays
// mapped until it is released.
type tableCache struct {
	maxTables int
	maxBytes  int64
	open      func(id string) (*table.Table, error)

	mu     sync.Mutex
	byID   map[string]*cached
	recent list.List // of *cached, the last used first
	bytes  int64
	closed bool
}

type cached struct {
	id    string
	at    *list.Element // nil if it is no longer in the cache
	users int

	once  sync.Once
	table *table.Table
	err   error
}

// acquire returns the table of a build id; release gives it back.
func (c *tableCache) acquire(id string) (t *table.Table, release func(), err error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, nil, errors.New("the store is closed")
	}
	if c.byID == nil {
		c.byID = map[string]*cached{}
	}
	e := c.byID[id]
	if e == nil {
		e = &cached{id: id}
		c.byID[id] = e
		e.at = c.recent.PushFront(e)
	} else {
		c.recent.MoveToFront(e.at)
	}
	e.users++
	c.mu.Unlock()

	e.once.Do(func() {
		opened, err := c.open(id)
		c.mu.Lock()
		defer c.mu.Unlock()
		e.table, e.err = opened, err
		if e.err != nil {
			c.remove(e)
			return
		}
		if e.at != nil {
			c.bytes += e.table.Size()
		}
		for len(c.byID) > 1 && (len(c.byID) > c.maxTables || c.bytes > c.maxBytes) {
			old := c.recent.Back().Value.(*cached)
			if old == e {
				break
			}
			c.remove(old)
		}
	})
	if e.err != nil {
		c.release(e)
		return nil, nil, e.err
	}
	return e.table, func() { c.release(e) }, nil
}

// remove takes an entry out of the cache; its table is closed with its last user. c.mu is held.
func (c *tableCache) remove(e *cached) {
	if e.at == nil {
		return
	}
	c.recent.Remove(e.at)
	e.at = nil
	delete(c.byID, e.id)
	if e.table != nil {
		c.bytes -= e.table.Size()
		if e.users == 0 {
			_ = e.table.Close()
		}
	}
}

func (c *tableCache) release(e *cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.users--
	if e.users == 0 && e.at == nil && e.table != nil {
		_ = e.table.Close()
	}
}

// forget drops the table of a build id, for a new one comes.
func (c *tableCache) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byID[id]; e != nil {
		c.remove(e)
	}
}

func (c *tableCache) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for c.recent.Len() > 0 {
		c.remove(c.recent.Front().Value.(*cached))
	}
	return nil
}
