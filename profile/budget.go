package profile

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// budget is what reading one input may still cost, whatever the input claims.
type budget struct {
	bytes int64 // of memory
	steps int64 // values read, for formats in which a value may take no bytes
	// ctx, if there is one, ends the reading; it is asked now and then.
	ctx   context.Context
	spent uint
}

// What a profile's parts take of memory, their places in the tables that find them again included.
const (
	namedFrameCost = 480
	stackCost      = 220
)

// newBudget returns one of that many bytes of memory; 0 or less: without a bound.
func newBudget(bytes int64) budget {
	if bytes <= 0 {
		bytes = math.MaxInt64
	}
	return budget{bytes: bytes, steps: math.MaxInt64}
}

var errTooManyValues = errors.New("more values than its size allows")

func (b *budget) spend(bytes, steps int64) error {
	b.bytes -= bytes
	b.steps -= steps
	switch {
	case b.bytes < 0:
		return fmt.Errorf("%w: it would take more memory than allowed", ErrTooLarge)
	case b.steps < 0:
		return errTooManyValues
	}
	if b.spent++; b.ctx != nil && b.spent%4096 == 0 {
		return b.ctx.Err()
	}
	return nil
}

// ErrTooDeep: a stack has more frames than the caller allows.
var ErrTooDeep = errors.New("stack too deep")
