#!/bin/bash
# Runs each fuzz test of the repository for the time given.
set -euo pipefail
for pkg in $(go list ./...); do
  for name in $(go test -list '^Fuzz' "$pkg" 2>/dev/null | grep '^Fuzz' || true); do
    echo "== $pkg $name"
    go test -run '^$' -fuzz "^$name\$" -fuzztime "$1" "$pkg"
  done
done
