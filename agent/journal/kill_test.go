package journal

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// TestMain lets the test binary be the writer that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("JOURNAL_TEST_WRITER"); dir != "" {
		writeForever(dir)
	}
	os.Exit(m.Run())
}

// writeForever says each entry's number once it is recorded.
func writeForever(dir string) {
	j, err := Open(Options{Dir: dir, MaxSize: 256 << 10})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		if err := j.Append(api.Decision{Event: "e", Reason: strings.Repeat("z", i%3000)}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(j.next - 1)
	}
}

// A writer killed with -9 loses nothing that it had recorded.
func TestKilledWriter(t *testing.T) {
	dir := t.TempDir()
	for round := range 8 {
		acked := runKilled(t, dir, 20+rand.IntN(200))
		j := open(t, Options{Dir: dir, MaxSize: 256 << 10})
		got := query(t, j, "", time.Time{}, 0)
		j.Close()
		if len(got) == 0 || got[len(got)-1] < acked || got[len(got)-1] > acked+1 {
			t.Fatalf("round %d: %d was recorded, the journal ends at %v", round, acked, got)
		}
		for i := 1; i < len(got); i++ {
			if got[i] != got[i-1]+1 {
				t.Fatalf("round %d: %d follows %d", round, got[i], got[i-1])
			}
		}
	}
}

// runKilled kills a writer after it has recorded some entries and returns the
// last number that it said.
func runKilled(t *testing.T, dir string, entries int) (last uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "JOURNAL_TEST_WRITER="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		if _, err := fmt.Sscan(lines.Text(), &last); err != nil {
			t.Errorf("the writer said %q", lines.Text())
		}
		if n == entries {
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != -1 {
		t.Fatalf("the writer was not killed: %v", err)
	}
	return last
}
