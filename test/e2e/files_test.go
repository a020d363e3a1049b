//go:build lab

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"strings"
)

// sameFile compares two files of the machine byte for byte.
func sameFile(a, b string) error {
	x, err := os.ReadFile(a)
	if err != nil {
		return err
	}
	y, err := os.ReadFile(b)
	if err != nil {
		return err
	}
	if !bytes.Equal(x, y) {
		return fmt.Errorf("%s (%d bytes) and %s (%d bytes) differ", a, len(x), b, len(y))
	}
	return nil
}

// lacks is an error if text does not contain part.
func lacks(text, part string) error {
	if !strings.Contains(text, part) {
		return fmt.Errorf("no %q in:\n%s", part, text)
	}
	return nil
}
