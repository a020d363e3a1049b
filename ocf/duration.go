package ocf

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// units are those of Pacemaker's own intervals and timeouts.
var units = map[string]time.Duration{
	"":     time.Second,
	"us":   time.Microsecond,
	"usec": time.Microsecond,
	"ms":   time.Millisecond,
	"msec": time.Millisecond,
	"s":    time.Second,
	"sec":  time.Second,
	"m":    time.Minute,
	"min":  time.Minute,
	"h":    time.Hour,
	"hr":   time.Hour,
}

var errDuration = errors.New(`is not a duration; write a number and a unit, such as "500ms", "5s", "2min" or "1h" (no unit: seconds)`)

// ParseDuration reads a duration as Pacemaker does ("5s", "500ms", "2min", plain
// seconds), and Go's compound form ("1m30s"). It is never negative.
func ParseDuration(s string) (time.Duration, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	digits := strings.TrimLeft(s, "0123456789.")
	number, err := strconv.ParseFloat(s[:len(s)-len(digits)], 64)
	if err != nil {
		return 0, errDuration
	}
	unit, ok := units[strings.TrimSpace(digits)]
	if !ok {
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 {
			return 0, errDuration
		}
		return d, nil
	}
	nanos := math.Round(number * float64(unit))
	if nanos > float64(math.MaxInt64/2) {
		return 0, errDuration
	}
	return time.Duration(nanos), nil
}
