#!/bin/bash
# What a token costs more through the Swift package than through bare C; writes benches/SWIFT.md. See README.md in this
# folder. MLXRT_PREFIX is where mlxrt is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=$(cd "${MLXRT_PREFIX:-build/prefix}" && pwd -P)
rounds=${ROUNDS:-15} tokens=${TOKENS:-1800}
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig LD_LIBRARY_PATH=$prefix/lib
export MLXRT_SWIFT_BINDS=$prefix
scripts/swift.sh bindings/swift swift build -c release --product Benchmark >&2
# One chroot for all rounds, in turns: what the machine does besides falls on both sides.
figures=$(scripts/swift.sh bindings/swift sh -c '
  for round in $(seq 1 "$2"); do
    case $((round % 2)) in 0) sides="c swift" ;; *) sides="swift c" ;; esac
    for side in $sides; do echo "$round $side $(.build/release/Benchmark "$1" $side "$3")"; done
  done' sh "$PWD/tests/fixtures/models/qwen3-f32" "$rounds" "$tokens")
processor=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
python3 - "$figures" "$tokens" "${processor:-$(uname -m)}, $(getconf _NPROCESSORS_ONLN) cores" >benches/SWIFT.md <<'END'
import statistics, sys
rows = {}
for line in sys.argv[1].splitlines():
    _, side, *numbers = line.split()
    for row, number in zip(("taken", "reader", "engine"), numbers, strict=True):
        rows.setdefault(row, {}).setdefault(side, []).append(float(number))
def cell(values):
    values = sorted(values)
    return f"{statistics.median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f})"
def row(name, figures, target):
    more = sorted(s - c for s, c in zip(figures["swift"], figures["c"]))
    if more[-1] - more[0] > 10:
        target = "not resolved: the spread is larger than 10"
    print(f"| {name} | {cell(figures['c'])} | {cell(figures['swift'])} | {cell(more)} | {target} |")
print(f"""# What the Swift package costs

Made by `make bench-swift`; what is measured and how is in [README.md](README.md). {sys.argv[3]}; {len(rows['taken']['c'])} rounds of
{sys.argv[2]} tokens. Microseconds of a token, median (smallest to largest).

| | bare C | Swift | Swift less C, round by round | target |
|---|---:|---:|---:|---:|""")
row("taken when it waits already", rows["taken"], "< 5")
row("streamed: CPU time of all threads but the engine's, sleeping and waking included", rows["reader"], "< 5")
row("streamed: CPU time of the engine's thread, arithmetic and notify", rows["engine"], "< 5")
END
cat benches/SWIFT.md
