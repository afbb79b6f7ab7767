#!/bin/sh
# The Go suite against an installed mlxrt:  PKG_CONFIG_PATH=PREFIX/lib/pkgconfig ./test.sh
# Needs Go 1.24 or newer, a C compiler, pkg-config, and python3 with venv and pip for OpenAI's client package (from PyPI).
set -eu
cd "$(dirname "$0")"
build=${MLXRT_BUILD:-../../build}/go
mkdir -p "$build"
build=$(cd "$build" && pwd)

pkg-config --exists --print-errors mlxrt
unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { echo "gofmt would change: $unformatted"; exit 1; }
go vet ./...
go test -count=1 ./...
go test -count=1 -race ./...
GOEXPERIMENT=cgocheck2 go test -count=1 .

# The chat server with the client that people have.
[ -x "$build/venv/bin/python" ] || python3 -m venv "$build/venv"
"$build/venv/bin/python" -c 'import openai' 2>/dev/null || "$build/venv/bin/pip" install --quiet --disable-pip-version-check openai
go build -o "$build/chatserver" ./examples/chatserver
"$build/venv/bin/python" examples/chatserver/client_test.py "$build/chatserver" ../../demo/model
echo "bindings/go: everything passed"
