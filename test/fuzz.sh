#!/bin/bash
# Runs each fuzz test of the repository for the time given.
#   fuzz.sh TIME
set -euo pipefail
go list -f '{{.ImportPath}} {{.Dir}}' ./... | while read -r pkg dir; do
  for name in $(grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go 2>/dev/null | cut -d' ' -f2); do
    echo "== $pkg $name"
    go test -run '^$' -fuzz "^$name\$" -fuzztime "$1" "$pkg" </dev/null
  done
done
