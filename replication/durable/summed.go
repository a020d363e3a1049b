package durable

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
)

// ErrSum is of a file whose checksum is not its content's: the disk has damaged it.
var ErrSum = errors.New("checksum does not match: the disk has damaged it")

// separator of text and checksum: no bit makes a digit or a point of it.
const separator = '-'

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// WriteSummed is WriteFile of a small text with its checksum at the end of its last line: a
// number in which a bit flips is a number, too. The text must not end in a newline.
func WriteSummed(path string, text []byte, mode fs.FileMode, hook Hook) error {
	return WriteFile(path, fmt.Appendf(bytes.Clone(text), "-%08x\n", crc32.Checksum(text, castagnoli)), mode, hook)
}

// ReadSummed reads what WriteSummed wrote. What has no checksum (earlier versions wrote none) is
// returned as it is, without its newline: who parses it must accept nothing behind it.
func ReadSummed(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	b = bytes.TrimSuffix(b, []byte("\n"))
	at := len(b) - 9
	if at < 0 || b[at] != separator {
		return b, nil
	}
	var sum uint32
	if _, err := fmt.Sscanf(string(b[at:]), "-%08x", &sum); err != nil || sum != crc32.Checksum(b[:at], castagnoli) {
		return nil, fmt.Errorf("%s: %w", path, ErrSum)
	}
	return b[:at], nil
}
