#!/bin/sh
# What the safety of the surface costs; writes SAFETY.md. See README.md in this folder.
set -eu
cd "$(dirname "$0")/.."

lib=${MLXRT_LIB:-target/release}
lib=$(cd "$lib" && pwd)
mkdir -p build
${CC:-cc} -O2 -std=gnu99 -Wall -Wextra -Wpedantic -Werror -Iinclude benches/safety.c -o build/safety \
  -L"$lib" -lmlxrt -Wl,-rpath,"$lib" -lpthread
table=$(build/safety tests/fixtures/models/qwen3-f32)
lookups=$(${CARGO:-cargo} test --release --lib capi::handle::tests::what_a_lookup_costs -- --ignored --nocapture | grep '^| lookup')
processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
cat >benches/SAFETY.md <<END
# What the safety costs

Made by \`make bench-safety\`; what is measured and how is in [README.md](README.md). ${processor:-$(uname -m)}, $(getconf _NPROCESSORS_ONLN) cores.
Load average before: $(cut -d' ' -f1 /proc/loadavg 2>/dev/null || echo unknown).

$table
$lookups
END
cat benches/SAFETY.md
