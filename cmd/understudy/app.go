package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/drill/pacemaker"
)

// app is what the commands share.
type app struct {
	in       io.Reader
	out, err io.Writer
	socket   string
	json     bool
	began    bool // a command runs: an error from now on is not one of typing

	now       func() time.Time
	pacemaker *pacemaker.Cluster
}

func newApp(in io.Reader, out, errOut io.Writer) *app {
	return &app{in: in, out: out, err: errOut, now: time.Now, pacemaker: pacemaker.New(nil)}
}

// askTime bounds a question to the agent that it can answer from memory.
const askTime = 10 * time.Second

func (a *app) client() *api.Client { return api.NewClient(a.socket) }

// ask calls f with a context that bounds a quick question.
func ask[T any](ctx context.Context, f func(ctx context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return f(ctx)
}

func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// say tells of progress: on standard error, so that standard output is the result alone.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.err, format+"\n", args...) }

// terminal says whether both ends are a person's: one who can be asked, and sees the question.
func (a *app) terminal() bool { return isTerminal(a.in) && isTerminal(a.err) }

func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// confirm asks before harm is done. Where nobody can be asked it refuses: a script says --yes.
func (a *app) confirm(ctx context.Context, yes bool, question string) error {
	if yes {
		return nil
	}
	if !a.terminal() {
		return withCode(exitRefused, errors.New("nobody can be asked here, and nothing was done; add --yes if it should be done without asking"))
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	answer := make(chan string, 1)
	go func() { // ends with the line, or with the program
		line, _ := bufio.NewReader(a.in).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case s := <-answer:
		if s == "y" || s == "yes" {
			return nil
		}
		return withCode(exitRefused, errors.New("not confirmed, and nothing was done"))
	}
}
