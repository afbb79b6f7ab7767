#!/bin/sh
# What a token costs in Go over bare C; writes GO.md. Needs an installed mlxrt, as `make test-go` makes it:
#   PKG_CONFIG_PATH=PREFIX/lib/pkgconfig benches/go.sh [MODEL]
set -eu
cd "$(dirname "$0")/.."
mkdir -p build
model=${1:-tests/fixtures/models/qwen3-f32}
(cd bindings/go && go build -o ../../build/go-overhead ./internal/overhead)
before=$(cut -d' ' -f1 /proc/loadavg)
table=$(build/go-overhead "$model")
processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
cat >benches/GO.md <<END
# What a token costs in Go over bare C

Made by \`benches/go.sh\`, on $model: 31 rounds of 400 tokens with each loop in turn, in one process.
${processor:-$(uname -m)}, $(getconf _NPROCESSORS_ONLN) cores, $(go env GOVERSION). Load average before: $before.

$table

- **Taking a token that is there** is what the binding itself adds to each token, its own code and the calls into C: the
  reader sleeps until the engine is ahead, and then takes 50 events. The aim of 5 microseconds is held against this row.
- **By the clock** is the whole request. The engine computes the next token while a reader takes this one, so a reader that is
  faster than the engine costs nothing here, and other programs on the machine cost much.
- **CPU time beside the engine's** is that of all other threads. A token that comes to an idle process wakes Go's scheduler, and
  its monitor thread, which looks around for a while every time: most of this. It is spent on other cores than the engine's,
  where there are some.
END
cat benches/GO.md
