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

# README.md's program: it answers, and exits with 1 on an error.
rm -rf "$build/readme"
mkdir -p "$build/readme"
awk '/^```go$/ { inside = 1; next } /^```/ { if (inside) exit } inside' README.md >"$build/readme/main.go"
(
  module=$(pwd)
  cd "$build/readme"
  go mod init hello 2>/dev/null
  go mod edit -require=github.com/mlxrt/mlxrt/bindings/go@v0.0.0 "-replace=github.com/mlxrt/mlxrt/bindings/go=$module"
  go build -o hello .
  ./hello "$module/../../demo/model" "What is the capital of France?" | grep Paris
  status=0
  ./hello /no/such/model hi 2>failed.txt || status=$?
  [ "$status" = 1 ] && grep -q /no/such/model failed.txt || { echo "README.md's program exits with $status: $(cat failed.txt)"; exit 1; }
)

# The chat server with the client that people have.
[ -x "$build/venv/bin/python" ] || python3 -m venv "$build/venv"
"$build/venv/bin/python" -c 'import openai' 2>/dev/null || "$build/venv/bin/pip" install --quiet --disable-pip-version-check openai
go build -o "$build/chatserver" ./examples/chatserver
"$build/venv/bin/python" examples/chatserver/client_test.py "$build/chatserver" ../../demo/model
"$build/venv/bin/python" examples/chatserver/tools_test.py "$build/chatserver" ../../tests/fixtures/script
echo "bindings/go: everything passed"
