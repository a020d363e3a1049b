package podman

import (
	"errors"
	"testing"
)

// The words are runc's, as Podman passed them on.
func TestStillborn(t *testing.T) {
	for text, want := range map[string]bool{
		"runc: runc create failed: unable to start container process: waiting for init preliminary setup: read init-p: connection reset by peer: OCI runtime error":            true,
		"runc: runc create failed: unable to start container process: exec: \"/nothing\": stat /nothing: no such file or directory: OCI runtime attempted to invoke a command": false,
	} {
		if stillborn(errors.New(text)) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
	if stillborn(nil) {
		t.Error("no error")
	}
}
