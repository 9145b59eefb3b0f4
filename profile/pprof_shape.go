package profile

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// What the pprof library allocates, in bytes, for things that may take as little as two bytes in the file.
const (
	pprofMessageCost  = 150  // a sample, location, function, mapping, line or label with its pointers
	pprofLocationCost = 24   // a location id of a sample: the id, the pointer, growth of the slice
	pprofLabelledCost = 1000 // the three maps of a sample that has labels
	pprofMaxTypes     = 64   // sample types; each costs a profile
)

// checkPprofShape walks over the messages of an encoded pprof without keeping anything of them, and refuses
// what would cost more than budget bytes of memory to decode.
func checkPprofShape(data []byte, budget int64) error {
	types, cost := 0, int64(0)
	err := eachField(data, func(field uint64, value []byte) error {
		switch field {
		case 1: // sample_type
			types++
		case 2: // sample
			cost += pprofMessageCost
			labels := 0
			if err := eachField(value, func(field uint64, value []byte) error {
				switch field {
				case 1, 2: // location_id, value; packed or one by one
					cost += pprofLocationCost * max(1, countVarints(value))
				case 3: // label
					labels++
				}
				return nil
			}); err != nil {
				return err
			}
			if labels > 0 {
				cost += pprofLabelledCost + int64(labels)*pprofMessageCost
			}
		case 4: // location
			cost += pprofMessageCost
			return eachField(value, func(field uint64, _ []byte) error {
				if field == 4 { // line
					cost += pprofMessageCost
				}
				return nil
			})
		case 3, 5: // mapping, function
			cost += pprofMessageCost
		case 6, 13: // string_table, comment
			cost += 2 * pprofLocationCost
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case types > pprofMaxTypes:
		return fmt.Errorf("%w: %d sample types, the limit is %d", ErrTooLarge, types, pprofMaxTypes)
	case cost > budget:
		return fmt.Errorf("%w: it would take %s of memory to decode, the limit is %s", ErrTooLarge, FormatValue(cost, "bytes"), FormatValue(budget, "bytes"))
	}
	return nil
}

func countVarints(b []byte) int64 {
	n := int64(0)
	for _, c := range b {
		if c < 0x80 {
			n++
		}
	}
	return n
}

var errNotPprof = errors.New("not a pprof, or truncated")

// eachField calls f for each field of an encoded protobuf message; value is nil unless it has a length.
func eachField(data []byte, f func(field uint64, value []byte) error) error {
	for len(data) > 0 {
		tag, n := binary.Uvarint(data)
		if n <= 0 {
			return errNotPprof
		}
		data = data[n:]
		var value []byte
		skip := uint64(0)
		switch tag & 7 {
		case 0:
			if _, n = binary.Uvarint(data); n <= 0 {
				return errNotPprof
			}
			skip = uint64(n)
		case 1:
			skip = 8
		case 5:
			skip = 4
		case 2:
			l, n := binary.Uvarint(data)
			if n <= 0 || l > uint64(len(data)-n) {
				return errNotPprof
			}
			value = data[n : n+int(l)]
			skip = uint64(n) + l
		default:
			return errNotPprof
		}
		if skip > uint64(len(data)) {
			return errNotPprof
		}
		data = data[skip:]
		if err := f(tag>>3, value); err != nil {
			return err
		}
	}
	return nil
}
