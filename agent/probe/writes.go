package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Writer stores a number in the service; it returns nil only when the service
// acknowledged it. Called from several goroutines at once.
type Writer interface {
	Write(ctx context.Context, n int) error
	String() string
}

// Verifier says which numbers the service has.
type Verifier interface {
	Present(ctx context.Context) ([]int, error)
}

// Writes are numbered writes beside the requests. Each number is used once.
type Writes struct {
	Writer    Writer
	Verifier  Verifier      // nil: what was lost stays unknown, and Verified false
	From      int           // the first number
	Every     time.Duration // default DefaultWriteEvery
	Timeout   time.Duration // default DefaultWriteTimeout
	VerifyFor time.Duration // how long reading back is tried; default DefaultVerifyFor
}

// Defaults of Writes.
const (
	DefaultWriteEvery   = 20 * time.Millisecond
	DefaultWriteTimeout = 2 * time.Second
	DefaultVerifyFor    = 30 * time.Second
	maxWritesInFlight   = 64 // one more is left out until an older one has ended
)

// number is the place in templates that a write's number takes.
const number = "{n}"

// HTTPWriter sends each number to the URL that the template makes of it, with the number as body.
func HTTPWriter(method, template string, o TargetOptions) (Writer, error) {
	if !strings.Contains(template, number) {
		return nil, fmt.Errorf("the writes' URL %q has no %s in it, so all writes would be one", template, number)
	}
	u, err := url.Parse(strings.ReplaceAll(template, number, "1"))
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("the writes' URL %q is not http://host/… or https://host/…", template)
	}
	return &httpWriter{method: method, template: template, opt: o, client: o.client()}, nil
}

type httpWriter struct {
	method, template string
	opt              TargetOptions
	client           *http.Client
}

func (w *httpWriter) String() string { return w.method + " " + w.template }

func (w *httpWriter) Write(ctx context.Context, n int) error {
	s := strconv.Itoa(n)
	return httpOnce(ctx, w.client, w.method, strings.ReplaceAll(w.template, number, s), strings.NewReader(s+"\n"), w.opt)
}

// CommandWriter runs a shell command for each number; exit code 0 acknowledges it.
func CommandWriter(template string) (Writer, error) {
	if !strings.Contains(template, number) {
		return nil, fmt.Errorf("the writes' command %q has no %s in it, so all writes would be one", template, number)
	}
	return commandWriter(template), nil
}

type commandWriter string

func (w commandWriter) String() string { return "command: " + string(w) }

func (w commandWriter) Write(ctx context.Context, n int) error {
	_, err := runShell(ctx, strings.ReplaceAll(string(w), number, strconv.Itoa(n)))
	return err
}

// HTTPVerifier reads the numbers from a URL: one a line, or a JSON array.
func HTTPVerifier(target string, o TargetOptions) Verifier {
	return verifierFunc(func(ctx context.Context) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
		if err != nil {
			return nil, err
		}
		resp, err := o.client().Do(req)
		if err != nil {
			return nil, shorten(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("status %s", resp.Status)
		}
		return io.ReadAll(resp.Body)
	})
}

// CommandVerifier reads the numbers from a shell command's output: one a line, or a JSON array.
func CommandVerifier(command string) Verifier {
	return verifierFunc(func(ctx context.Context) ([]byte, error) { return runShell(ctx, command) })
}

type verifierFunc func(ctx context.Context) ([]byte, error)

func (f verifierFunc) Present(ctx context.Context) ([]int, error) {
	b, err := f(ctx)
	if err != nil {
		return nil, err
	}
	return ParseNumbers(b)
}

// ParseNumbers reads what a service says it has: a JSON array of numbers, or a number a
// line (names such as "17.txt" count as 17; lines that begin with no digit are refused).
func ParseNumbers(b []byte) ([]int, error) {
	text := strings.TrimSpace(string(b))
	if strings.HasPrefix(text, "[") {
		var ns []int
		if err := json.Unmarshal([]byte(text), &ns); err != nil {
			return nil, fmt.Errorf("the list of writes is not a JSON array of numbers: %w", err)
		}
		return ns, nil
	}
	var ns []int
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		digits := strings.IndexFunc(line, func(r rune) bool { return r < '0' || r > '9' })
		if digits < 0 {
			digits = len(line)
		}
		n, err := strconv.Atoi(line[:digits])
		if err != nil {
			return nil, fmt.Errorf("the list of writes has the line %q, which begins with no number", line)
		}
		ns = append(ns, n)
	}
	return ns, nil
}

// writeRun issues the writes and keeps their fates.
type writeRun struct {
	opt Writes

	mu        sync.Mutex // guards what follows
	track     *tracker
	acks      map[int]bool // number → acknowledged
	underWay  int
	firstFail string
}

func newWriteRun(o Writes, start time.Time) *writeRun {
	return &writeRun{
		opt: o, acks: map[int]bool{},
		track: newTracker(start, o.Every, max(DefaultMinOutage, 4*o.Every)),
	}
}

func (w *writeRun) acked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.track.ok
}

func (w *writeRun) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	t := time.NewTicker(w.opt.Every)
	defer t.Stop()
	for n := w.opt.From; ; {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if w.begin(n) {
			k := n
			wg.Go(func() { w.one(ctx, k) })
			n++
		}
	}
}

func (w *writeRun) begin(n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.underWay >= maxWritesInFlight {
		return false
	}
	w.underWay++
	w.acks[n] = false
	return true
}

// one lets a write that is under way when the measurement ends finish: its answer is
// short of nothing but time, and an unknown outcome tells less.
func (w *writeRun) one(ctx context.Context, n int) {
	wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.opt.Timeout)
	defer cancel()
	issued := time.Now()
	err := w.opt.Writer.Write(wctx, n)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.underWay--
	if err != nil {
		w.track.failure(issued, err)
		if w.firstFail == "" {
			w.firstFail = err.Error()
		}
		return
	}
	w.acks[n] = true
	w.track.success(issued, time.Now())
}

// finish reads back what survived and compares.
func (w *writeRun) finish(end time.Time) *WriteResult {
	res, acks := w.summary(end)
	if w.opt.Verifier == nil {
		return res
	}
	present, err := w.readBack()
	if err != nil {
		res.VerifyError = err.Error()
		return res
	}
	res.Verified = true
	compare(res, acks, present)
	return res
}

// summary is what is known without asking the service; no write is under way any more.
func (w *writeRun) summary(end time.Time) (*WriteResult, map[int]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.track
	outages := t.finish(latest(end, t.lastOK))
	return &WriteResult{
		Target: w.opt.Writer.String(), Attempted: len(w.acks), Acked: t.ok, Failed: t.failed,
		Outages: outages, LatencyMS: t.latency.latency(), LongestGapMS: millis(t.longest),
		FirstError: w.firstFail, LostNumbers: []int{},
	}, maps.Clone(w.acks)
}

// readBack tries until it succeeds or VerifyFor is over: the service may just be coming back.
func (w *writeRun) readBack() ([]int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), w.opt.VerifyFor)
	defer cancel()
	for {
		present, err := w.opt.Verifier.Present(ctx)
		if err == nil {
			return present, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(errors.New("the writes could not be read back"), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// compare counts only our own numbers: the service may hold those of earlier runs.
func compare(res *WriteResult, acks map[int]bool, present []int) {
	there := make(map[int]bool, len(present))
	for _, n := range present {
		there[n] = true
	}
	for n, acked := range acks {
		switch {
		case there[n]:
			res.Present++
			if !acked {
				res.UnackedPresent++
			}
		case acked:
			res.Lost++
			res.LostNumbers = append(res.LostNumbers, n)
		}
	}
	slices.Sort(res.LostNumbers)
	if len(res.LostNumbers) > MaxLostListed {
		res.LostNumbers = res.LostNumbers[:MaxLostListed]
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
