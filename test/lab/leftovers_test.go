//go:build lab

package lab

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// victim is the other process of TestLeftoversOfAKilledRun.
func victim(name string) {
	l, err := Up(context.Background(), Options{Name: name})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	// Something of everything that could be left: a process on a node, one on the client.
	if err := l.Node("n1").Command(context.Background(), "sleep", "1000").Start(); err != nil {
		fmt.Println("error:", err)
	}
	if err := l.Client().Command(context.Background(), "sleep", "1000").Start(); err != nil {
		fmt.Println("error:", err)
	}
	fmt.Println("up")
	select {}
}

func TestLeftoversOfAKilledRun(t *testing.T) {
	needRoot(t)
	name := testName("dead")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LAB_TEST_VICTIM="+name)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "up\n" {
		t.Fatalf("the other process says %q", line)
	}
	if i := infoOf(t, name); !i.Alive || len(i.Running) != 2 {
		t.Errorf("before the kill: %+v", i)
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	if i := infoOf(t, name); i.Alive {
		t.Errorf("after the kill: %+v", i)
	}
	must(t, CleanLeftovers(t.Context(), testWriter{t}))
	nothingLeft(t, name)
}

func infoOf(t *testing.T, name string) Info {
	t.Helper()
	all, err := List()
	must(t, err)
	for _, i := range all {
		if i.Name == name {
			return i
		}
	}
	t.Fatalf("lab %s is not listed: %+v", name, all)
	return Info{}
}

func TestInterruptedUp(t *testing.T) {
	needRoot(t)
	for _, after := range []time.Duration{0, 100 * time.Millisecond, 400 * time.Millisecond} {
		name := testName("cut")
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(after, cancel)
		l, err := Up(ctx, Options{Name: name})
		cancel()
		if err == nil {
			t.Errorf("Up finished within %v", after)
			must(t, l.Down(t.Context()))
		} else if !strings.Contains(err.Error(), "context canceled") {
			t.Errorf("after %v: %v", after, err)
		}
		nothingLeft(t, name)
	}
}
