package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/understudy-ha/understudy/agent/probe"
)

// probeFlags are the flags by which commands are told what to measure with.
type probeFlags struct {
	url       string // of the flag --probe, or the argument
	command   string
	every     time.Duration
	timeout   time.Duration
	minOutage time.Duration
	expect    int
	insecure  bool
	headers   []string

	writes        string
	writeCommand  string
	writeMethod   string
	writesEvery   time.Duration
	writeFrom     int
	verify        string
	verifyCommand string
}

// add registers the flags that every measuring command has.
func (f *probeFlags) add(fs *pflag.FlagSet) {
	fs.DurationVar(&f.every, "every", probe.DefaultEvery, "time between requests, each on a new connection")
	fs.DurationVar(&f.timeout, "request-timeout", probe.DefaultTimeout, "a request without an answer for so long has failed")
	fs.DurationVar(&f.minOutage, "min-outage", 0, "a shorter gap without a failed request is latency (default 50ms, or four times --every)")
	fs.IntVar(&f.expect, "expect", 0, "the HTTP status that is a success (default any 2xx or 3xx)")
	fs.BoolVarP(&f.insecure, "insecure", "k", false, "accept any TLS certificate")
	fs.StringArrayVarP(&f.headers, "header", "H", nil, `HTTP header to send, "Name: value"; may be repeated`)
	fs.StringVar(&f.writes, "writes", "", "also write numbers: the URL for each, with {n} for the number")
	fs.StringVar(&f.writeMethod, "write-method", http.MethodPost, "HTTP method of the writes")
	fs.StringVar(&f.writeCommand, "write-command", "", "also write numbers: a shell command for each, with {n} for the number")
	fs.DurationVar(&f.writesEvery, "writes-every", probe.DefaultWriteEvery, "time between writes")
	fs.IntVar(&f.writeFrom, "write-from", 0, "the first number written (default made from the time, so that no run takes another's writes for its own)")
	fs.StringVar(&f.verify, "verify-writes", "", "URL that lists the numbers that are there: one a line, or a JSON array")
	fs.StringVar(&f.verifyCommand, "verify-command", "", "shell command that prints the numbers that are there")
}

// options makes of the flags what the probe needs.
func (f *probeFlags) options() (probe.Options, error) {
	to, err := f.target()
	if err != nil {
		return probe.Options{}, err
	}
	o := probe.Options{Every: f.every, Timeout: f.timeout, MinOutage: f.minOutage}
	switch {
	case f.url != "" && f.command != "":
		return o, errors.New("a URL and a command are two targets; name one of them")
	case f.command != "":
		o.Target = probe.CommandTarget(f.command)
	default:
		if o.Target, err = probe.ParseTarget(f.url, to); err != nil {
			return o, err
		}
	}
	o.Writes, err = f.writesOptions(to)
	return o, err
}

func (f *probeFlags) target() (probe.TargetOptions, error) {
	o := probe.TargetOptions{Expect: f.expect, Insecure: f.insecure, Header: http.Header{}}
	for _, h := range f.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return o, fmt.Errorf("the header %q is not \"Name: value\"", h)
		}
		o.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return o, nil
}

func (f *probeFlags) writesOptions(to probe.TargetOptions) (*probe.Writes, error) {
	w := &probe.Writes{From: cmp.Or(f.writeFrom, firstWrite(time.Now())), Every: f.writesEvery}
	to.Expect = 0 // that is the probe's
	var err error
	switch {
	case f.writes != "" && f.writeCommand != "":
		return nil, errors.New("--writes and --write-command exclude each other")
	case f.writes != "":
		w.Writer, err = probe.HTTPWriter(f.writeMethod, f.writes, to)
	case f.writeCommand != "":
		w.Writer, err = probe.CommandWriter(f.writeCommand)
	case f.verify != "" || f.verifyCommand != "":
		return nil, errors.New("there is nothing to verify without --writes or --write-command")
	default:
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	switch {
	case f.verify != "" && f.verifyCommand != "":
		return nil, errors.New("--verify-writes and --verify-command exclude each other")
	case f.verify != "":
		w.Verifier = probe.HTTPVerifier(f.verify, to)
	case f.verifyCommand != "":
		w.Verifier = probe.CommandVerifier(f.verifyCommand)
	}
	return w, nil
}

// firstWrite leaves a million numbers to each second, and so to each run and to each
// of its rounds: a number that an earlier run wrote would be found there though lost.
func firstWrite(now time.Time) int { return int(now.Unix()) * 1_000_000 }
