#!/bin/sh
# Builds the binaries and the packages: build/understudy_VERSION_ARCH.deb and
# build/understudy-VERSION-1.ARCH.rpm. Run it from anywhere; `make package` does.
#   FORMATS="deb rpm"   which packages
#   OUT=build           where to
#   PACKAGE_VERSION=    the package's version (made from git's tags)
#   VERSION=            what the binaries call themselves (the package's version)
#   BIN=                a directory with binaries that are built already
#   TOOLS=OUT/tools     where the tool that packs is kept
set -eu
cd "$(dirname "$0")/.."

NFPM=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4
TAGS=remote,containers_image_openpgp,exclude_graphdriver_btrfs
OUT=${OUT:-build}
export GOARCH=${GOARCH:-$(go env GOARCH)}
export BUILD="$OUT/stage"

say() { echo "package: $*" >&2; }

# A version that sorts in both formats: v0.1.0 -> 0.1.0, twelve commits later
# 0.1.0+12.gabc, and before the first tag 0.1.0~dev.12.gabc.
version() {
    if d=$(git describe --tags --match 'v[0-9]*' 2>/dev/null); then
        echo "${d#v}" | sed 's/-\([0-9]*\)-g/+\1.g/; s/-/~/g'
    elif n=$(git rev-list --count HEAD 2>/dev/null); then
        echo "0.1.0~dev.$n.g$(git rev-parse --short HEAD)"
    else
        echo "0.1.0~dev"
    fi
}

# complete writes what the program says of itself to a file, if it does.
complete() {
    mkdir -p "$(dirname "$2")"
    "$BUILD/native" completion "$1" >"$2" 2>/dev/null || { say "no completion for $1"; rm -f "$2"; }
}

PACKAGE_VERSION=${PACKAGE_VERSION:-$(version)}
export PACKAGE_VERSION
VERSION=${VERSION:-$PACKAGE_VERSION}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

say "understudy $PACKAGE_VERSION for $GOARCH"
rm -rf "$BUILD"
mkdir -p "$BUILD"
ldflags="-s -w -X github.com/understudy-ha/understudy/agent/api.Software=$VERSION"
for cmd in understudy understudy-ocf; do
    [ -z "${BIN:-}" ] || { cp "$BIN/$cmd" "$BUILD/$cmd"; continue; }
    GOFLAGS= CGO_ENABLED=0 GOOS=linux go build -trimpath -tags "$TAGS" -ldflags "$ldflags" -o "$BUILD/$cmd" "./cmd/$cmd"
done

# Manual pages and completions come from the program, run on this machine.
if [ "$GOARCH" = "$(go env GOHOSTARCH)" ]; then
    ln "$BUILD/understudy" "$BUILD/native"
else
    GOFLAGS= CGO_ENABLED=0 GOARCH= go build -trimpath -tags "$TAGS" -o "$BUILD/native" ./cmd/understudy
fi
share="$BUILD/share"
mkdir -p "$share/man/man8"
complete bash "$share/bash-completion/completions/understudy"
complete zsh "$share/zsh/vendor-completions/_understudy" # Debian
complete zsh "$share/zsh/site-functions/_understudy"     # Fedora, RHEL
complete fish "$share/fish/vendor_completions.d/understudy.fish"
"$BUILD/native" man "$share/man/man8" >/dev/null || say "no manual pages"
find "$share/man" -name '*.8' -exec gzip -9n {} +

# The tool is built once and kept, outside of the project's own modules.
tools=$PWD/${TOOLS:-$OUT/tools}
[ -x "$tools/nfpm" ] || {
    say "building nfpm (once)"
    GOFLAGS= GOARCH= GOBIN="$tools" go install "$NFPM"
}
rm -f "$OUT"/understudy_*.deb "$OUT"/understudy-*.rpm
umask 022
for format in ${FORMATS:-deb rpm}; do
    "$tools/nfpm" package --config .packaging/nfpm.yaml --packager "$format" --target "$OUT/" >&2
done
rm -rf "$BUILD"
