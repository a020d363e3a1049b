package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"understudy": main,
		"fakeagent":  fakeAgentMain,
		"fakeweb":    fakeWebMain,
		"seal":       sealMain,
	})
}

// TestScripts runs the program as an operator does: against a fake agent on a real socket,
// fake Pacemaker tools in PATH, and real HTTP.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		UpdateScripts:       *update,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", filepath.Join(e.WorkDir, "bin")+":"+e.Getenv("PATH"))
			e.Setenv("TZ", "UTC")
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"waitfile": waitFile,
			"exits":    exits,
		},
	})
}

// waitFile waits until the file exists and, with a second argument, holds that text.
func waitFile(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		if _, serr := os.Lstat(ts.MkAbs(args[0])); serr == nil && len(args) == 1 {
			return
		}
		if err == nil && len(args) > 1 && contains(string(b), args[1]) {
			return
		}
	}
	ts.Fatalf("never came: %v", args)
}

// exits runs the program and checks its exit code: exits CODE understudy ARGS…
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("/bin/sh", append([]string{"-c", `code=$1; shift; "$@"; got=$?; [ $got = $code ] || { echo "exit code $got, want $code"; exit 99; }`, "sh"}, args...)...)
	if err != nil {
		ts.Fatalf("%v: %v", args, err)
	}
}

// signalled is a context for the fakes' main functions.
func signalled() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
