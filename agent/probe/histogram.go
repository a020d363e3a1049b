package probe

import (
	"math"
	"time"
)

// histogram keeps latencies in buckets that grow by 2 %, so that a measurement of
// days needs no more memory than one of seconds. The zero value is ready.
type histogram struct {
	counts [buckets]int
	total  int
	max    time.Duration
}

const (
	buckets    = 1200 // 1 µs · 1.02^1200 is beyond five hours
	bucketBase = 1.02
)

func (h *histogram) add(d time.Duration) {
	us := math.Max(1, float64(d)/float64(time.Microsecond))
	i := min(int(math.Log(us)/math.Log(bucketBase)), buckets-1)
	h.counts[i]++
	h.total++
	h.max = max(h.max, d)
}

// quantile is the upper edge of the bucket that holds the q-th part, in ms, never above the maximum seen.
func (h *histogram) quantile(q float64) float64 {
	if h.total == 0 {
		return 0
	}
	rank := int(math.Ceil(q * float64(h.total)))
	seen := 0
	for i, n := range h.counts {
		if seen += n; seen >= rank {
			edge := math.Pow(bucketBase, float64(i+1)) / 1000
			return math.Round(math.Min(edge, millis(h.max))*1000) / 1000
		}
	}
	return millis(h.max)
}

func (h *histogram) latency() Latency {
	return Latency{P50: h.quantile(0.5), P90: h.quantile(0.9), P99: h.quantile(0.99), Max: millis(h.max)}
}
