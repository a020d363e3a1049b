package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/understudy-ha/understudy/replication"
)

// text is content that can be compressed, of its own for each n.
func text(n int) []byte {
	var b bytes.Buffer
	for i := range 60 + n%7 {
		fmt.Fprintf(&b, "line %d of a file with %x in it\n", i, noise(uint64(n*1000+i), 8))
	}
	return b.Bytes()
}

// book is a store with a generation of so many files of text, by a sender, and the
// generation that turns them into noise, ready to be sent.
func book(t *testing.T, root string, files int) (good *replication.Manifest, attack []byte) {
	t.Helper()
	s := open(t, root, Options{})
	var plain, noised [][]byte
	for i := range files {
		plain = append(plain, text(i))
		noised = append(noised, noise(uint64(i)+1, len(text(i))))
	}
	put(t, s, plain...)
	put(t, s, noised...)
	good = manifest(id(1, 1), id(0, 0), plain...)
	commit(t, s, good)
	b, err := EncodeManifest(manifest(id(1, 2), id(1, 1), noised...))
	if err != nil {
		t.Fatal(err)
	}
	return good, b
}

// Killed at any step of the commit, a suspect generation is never the head without
// its mark and its predecessor's pin, and comes to be both when it is sent again.
func TestSuspectCommitIsKilled(t *testing.T) {
	for n, done := 0, false; !done; n++ {
		root := t.TempDir()
		_, attack := book(t, root, 12)
		step := 0
		dying := open(t, root, Options{Hook: func(string) error {
			if step++; step > n {
				return errKilled
			}
			return nil
		}})
		err := dying.CommitEncoded(incoming(t, dying, attack), id(1, 2))
		if done = err == nil; !done && !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		s := open(t, root, Options{})
		head, err := s.Head()
		if err != nil {
			t.Fatal(err)
		}
		list, err := s.Suspects()
		if err != nil || (head == id(1, 2)) != (len(list) == 1) {
			t.Errorf("step %d: the head is %s, suspect are %+v, %v", n, head, list, err)
		}
		if err := s.CommitEncoded(incoming(t, s, attack), id(1, 2)); err != nil {
			t.Fatal(err)
		}
		list, err = s.Suspects()
		pins, perr := s.Pins()
		if err != nil || perr != nil || len(list) != 1 || list[0].Before != id(1, 1) || len(pins) != 1 || pins[0].ID != id(1, 1) {
			t.Errorf("step %d, again: suspect %+v, pins %+v, %v, %v", n, list, pins, err, perr)
		}
	}
}

// What is marked goes with the generations that a returning node gives up.
func TestSuspectsAreReset(t *testing.T) {
	root := t.TempDir()
	_, attack := book(t, root, 12)
	s := open(t, root, Options{})
	if err := s.CommitEncoded(incoming(t, s, attack), id(1, 2)); err != nil {
		t.Fatal(err)
	}
	if err := s.Reset(id(1, 1)); err != nil {
		t.Fatal(err)
	}
	if list, err := s.Suspects(); err != nil || len(list) > 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := s.Release(); !errors.Is(err, replication.ErrNotFound) {
		t.Errorf("released nothing: %v", err)
	}
}

// A list that cannot be read refuses what is sent: it may be what is to be marked.
func TestSuspectsThatCannotBeRead(t *testing.T) {
	root := t.TempDir()
	_, attack := book(t, root, 12)
	s := open(t, root, Options{})
	if err := os.WriteFile(s.path(suspectsFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.CommitEncoded(incoming(t, s, attack), id(1, 2)); err == nil {
		t.Error("committed")
	}
}

// Alarms do not pin without bound.
func TestManySuspects(t *testing.T) {
	root := t.TempDir()
	good, attack := book(t, root, 12)
	s := open(t, root, Options{})
	bad, err := DecodeManifest(attack, nil)
	if err != nil {
		t.Fatal(err)
	}
	send := func(like *replication.Manifest, seq uint64) {
		m := *like
		m.ID, m.Parent, m.FreezeNs = id(1, seq), id(1, seq-1), int64(seq)
		b, err := EncodeManifest(&m)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.CommitEncoded(incoming(t, s, b), m.ID); err != nil {
			t.Fatal(err)
		}
	}
	for seq := uint64(2); seq < 60; seq += 2 {
		send(bad, seq)
		send(good, seq+1)
	}
	list, err := s.Suspects()
	pins, perr := s.Pins()
	if err != nil || perr != nil || len(list) != maxSuspects || len(pins) != maxSuspects || list[maxSuspects-1].Last != id(1, 58) {
		t.Errorf("%d suspect, %d pinned, the last is %+v, %v, %v", len(list), len(pins), list[len(list)-1], err, perr)
	}
}
