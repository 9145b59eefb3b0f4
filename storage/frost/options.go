// Package frost is the storage.Store of one machine. FrostDB keeps the data, this package keeps the promise:
// a log of our own before it, an index of blocks of our own behind it.
//
//	Write ─▶ dictionary (content → ids) ─▶ rows ─▶ group commit: log, fsync ─▶ head (FrostDB) ─▶ acknowledged
//	                                                                             │ full or old
//	               log segments freed ◀─ block verified, durable ◀─ Parquet ◀────┘
//
// A row is one profile: its series, its times and, packed, its samples as (stack id, value). Rows are sorted by
// service, series and time, so that a question reads little. What is on disk:
//
//	DIR/lock                     held while the store is open; has the process id
//	DIR/log/N.log                the write-ahead log: dictionary deltas and rows
//	DIR/dictionary/N.dict        what blocks refer to: dictionary deltas, in order
//	DIR/blocks/A-B.parquet       the rows of log segments A to B
//	DIR/blocks/A-B.meta          the block's index; a block without it does not exist
//	DIR/recent                   the IDs of the last profiles in blocks
//
// Every row is in the log or in a block, never in both as far as anyone sees: a block names the log segments
// that it stands for, and those are not replayed any more from the moment its index is there.
package frost

import (
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/thanos-io/objstore"

	"github.com/perfuse/perfuse/storage/disk"
)

// Options say where the store is and what it may use. Only Dir is needed.
type Options struct {
	// Dir holds everything. It is made if it is not there. One process at a time can have it.
	Dir string
	// Bucket gets a copy of every block and of the dictionary; nil: there is none. A store that is opened
	// with an empty Dir takes what the bucket has. Nothing else may write below "blocks" and "dictionary" in
	// it.
	Bucket objstore.Bucket
	// Logger and Registerer may be nil.
	Logger     log.Logger
	Registerer prometheus.Registerer

	// HeadBytes is how much is kept in memory and in the log until it becomes a block; default 64 MiB, which
	// is about 10 million samples.
	HeadBytes int64
	// HeadAge is how old the head becomes at most; default 2 hours.
	HeadAge time.Duration
	// SegmentBytes is the size of a log segment; default 16 MiB.
	SegmentBytes int64
	// Retention is how long profiles are kept, by their own time; default 15 days, negative: for ever. Whole
	// blocks are dropped.
	Retention time.Duration
	// RetentionBytes is how large all blocks together may become before the oldest is dropped; default 0: no
	// limit.
	RetentionBytes int64
	// MaxPoints is how many points an answer of Series may have; default 1 million.
	MaxPoints int
	// Now is the clock; default time.Now.
	Now func() time.Time

	// fs is where Dir lies; tests make it fail. The lock is taken only on the real one.
	fs disk.FS
	// retry is the pause after a failed flush or upload, and how often a broken log tries to repair itself.
	retry time.Duration
	// spillBytes is how large the tail of a head becomes before it is moved into FrostDB, compactBytes how
	// much FrostDB collects in Arrow records before it compacts them to Parquet in memory.
	spillBytes, compactBytes int64
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = log.NewNopLogger()
	}
	if o.HeadBytes <= 0 {
		o.HeadBytes = 64 << 20
	}
	if o.HeadAge <= 0 {
		o.HeadAge = 2 * time.Hour
	}
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = 16 << 20
	}
	if o.Retention == 0 {
		o.Retention = 15 * 24 * time.Hour
	}
	if o.MaxPoints <= 0 {
		o.MaxPoints = 1e6
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.fs == nil {
		o.fs = disk.OS
	}
	if o.spillBytes == 0 {
		o.spillBytes = 1 << 20
	}
	if o.compactBytes == 0 {
		o.compactBytes = 8 << 20
	}
	if o.retry == 0 {
		o.retry = time.Second
	}
}
