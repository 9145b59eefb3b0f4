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
//	DIR/dictionary/N.dict        what blocks refer to: dictionary deltas, in order; or all of it up to here
//	DIR/blocks/A-B.parquet       the rows of log segments A to B
//	DIR/blocks/A-B.meta          the block's index; a block without it does not exist
//	DIR/blocks/A-B-G.*           the same made of earlier blocks, for which it stands; G is its generation
//	DIR/recent                   the IDs of the last profiles in blocks
//
// Every row is in the log or in a block, never in both as far as anyone sees: a block names the log segments
// that it stands for, and those are not replayed any more from the moment its index is there. In the same way
// a block that was made of several stands for them.
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
	// Retention is how long profiles are kept, by their own time, where no rule says otherwise; default 15 days,
	// negative: for ever. A block is dropped when all of it is older.
	Retention time.Duration
	// Rules say how long the profiles of some series are kept: the first that matches counts, also if it is longer
	// than Retention. What is older is no more in blocks that are compacted, and a block is rewritten without it
	// when all its series with the same age have outlived it.
	Rules []Rule
	// RetentionBytes is how large all blocks together may become before the oldest is dropped, whatever the
	// rules; default 0: no limit.
	RetentionBytes int64
	// CompactSpan is how much time a block has at most that is made of several, and CompactBytes how large it is;
	// default: the smaller of a day and a tenth of Retention, and of 512 MiB and a tenth of RetentionBytes, so that
	// dropping a block takes away little at once. Negative CompactBytes: blocks stay as they are.
	CompactSpan  time.Duration
	CompactBytes int64
	// ForgetEvery is how often at most the dictionary is cleared of what no row refers to any more; default 6 hours,
	// negative: never. It reads all rows, and takes 1 % of the time at most.
	ForgetEvery time.Duration
	// MaxPoints is how many points an answer of Series may have; default 1 million.
	MaxPoints int
	// MaxFrames is how many frames the stacks of a Merge may have; default 20 million, which take some 300 MB until
	// they are a flame graph. The stacks of the least values beyond it are one.
	MaxFrames int
	// Now is the clock; default time.Now.
	Now func() time.Time

	// fs is where Dir lies; tests make it fail. The lock is taken only on the real one.
	fs disk.FS
	// retry is the pause after a failed flush or upload, and how often a broken log tries to repair itself.
	retry time.Duration
	// spillBytes is how large the tail of a head becomes before it is moved into FrostDB, compactBytes how
	// much FrostDB collects in Arrow records before it compacts them to Parquet in memory.
	spillBytes, compactBytes int64
	// maxPages is how many pages of sums a merge may have, 4 KiB each; default 128 MiB of them.
	maxPages int64
	// compactRun is how many of the latest blocks become one.
	compactRun int
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
	if o.CompactSpan <= 0 {
		o.CompactSpan = 24 * time.Hour
		if o.Retention > 0 {
			o.CompactSpan = min(o.CompactSpan, max(o.Retention/10, time.Minute))
		}
	}
	if o.CompactBytes == 0 {
		o.CompactBytes = 512 << 20
		if o.RetentionBytes > 0 {
			o.CompactBytes = max(min(o.CompactBytes, o.RetentionBytes/10), 1)
		}
	}
	if o.compactRun <= 0 {
		o.compactRun = 4
	}
	if o.ForgetEvery == 0 {
		o.ForgetEvery = 6 * time.Hour
	}
	if o.MaxFrames <= 0 {
		o.MaxFrames = 20e6
	}
	if o.maxPages <= 0 {
		o.maxPages = 32 << 10
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
