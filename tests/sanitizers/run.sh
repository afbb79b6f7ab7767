#!/bin/bash
# The C suite and the Rust unit tests with a sanitizer in them; see README.md in this folder.
#   run.sh address|thread
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
name=${1:?address or thread}
here=$root/tests/sanitizers
target=x86_64-unknown-linux-gnu
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "sanitizers: this is for Linux on x86-64." >&2; exit 1; }

case $name in
address)
  short=asan
  std=()
  canaries="overflow:heap-buffer-overflow use_after_free:heap-use-after-free leak:LeakSanitizer leak_beside_the_engine:LeakSanitizer"
  # What else is wanted of each: a stack at every fault, C++ exceptions that are expected, and leaks.
  export ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1:allocator_may_return_null=1:exitcode=77"
  export LSAN_OPTIONS="suppressions=$here/leak.supp:print_suppressions=0"
  ;;
thread)
  short=tsan
  # An uninstrumented standard library would hide its own synchronisation, and report what it orders.
  std=(-Zbuild-std)
  [ -d "$(rustc --print sysroot)/lib/rustlib/src/rust/library" ] || rustup component add rust-src
  canaries="race:data.race race_inside:data.race"
  export TSAN_OPTIONS="suppressions=$here/thread.supp:exitcode=77:second_deadlock_stack=1:history_size=4:report_thread_leaks=0:print_suppressions=1"
  ;;
*) echo "run.sh address|thread" >&2; exit 2 ;;
esac

# 1. The library with its C++ parts, in a target folder of its own. What MLX's wheel brings stays as it is.
export CARGO_TARGET_DIR=$root/target/$short RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=$name -Cforce-frame-pointers=yes"
export CXXFLAGS_x86_64_unknown_linux_gnu="-fsanitize=$name -fno-omit-frame-pointer"
nice cargo build --release --target $target "${std[@]}"
lib=$CARGO_TARGET_DIR/$target/release

# 2. The C programs. One runtime for both languages: rustc's own, in the program, which exports it to the library.
runtime=$(rustc --print sysroot)/lib/rustlib/$target/lib/librustc-stable_rt.$short.a
[ -f "$runtime" ] || runtime=$(echo "$(rustc --print sysroot)/lib/rustlib/$target/lib/"librustc-*_rt.$short.a)
build=$root/build/$short
# libstdc++ first: a runtime that starts before it finds no __cxa_throw to wrap.
link="-Wl,--whole-archive $runtime -Wl,--no-whole-archive -Wl,--export-dynamic -Wl,--no-as-needed -lstdc++ -lpthread -ldl -lrt -lm"
flags="-O1 -g -fsanitize=$name -fno-omit-frame-pointer"
make --no-print-directory -C tests/c LIB="$lib" BUILD="$build" CFLAGS="$flags" \
  LINK="-L$lib -Wl,-rpath,$lib -lmlxrt $link" PLUGIN_LINK="$link" all
# shellcheck disable=SC2086 # flags are separate words
{
  ${CC:-cc} -std=c99 $flags -Iinclude -c tests/sanitizers/canary.c -o "$build/canary.o"
  ${CC:-cc} "$build/canary.o" -o "$build/canary" -L"$lib" -Wl,-rpath,"$lib" -lmlxrt $link
}

failed=0
results=$here/$name.txt
say() { echo "$*" | tee -a "$results"; }
: >"$results"
say "$(rustc --version | cut -d' ' -f1,2), $(${CC:-cc} --version | head -1), -Zsanitizer=$name"

# 3. Faults that must be seen.
for canary in $canaries; do
  if "$build/canary" "${canary%%:*}" >"$build/out.txt" 2>&1 || ! grep -q "${canary#*:}" "$build/out.txt" \
    || grep -q 'was not suspended' "$build/out.txt"; then
    say "canary ${canary%%:*}: NOT REPORTED"
    failed=1
  else
    say "canary ${canary%%:*}: reported"
  fi
done

# 4. The programs.
for program in $(make --no-print-directory -s -C tests/c BUILD="$build" list); do
  base=$(basename "$program")
  # Every fixture in a process of its own, one request each: an hour, and nothing meets there.
  [ "$base" != costs ] || continue
  rm -f "$build/report.$base".*
  status=0
  # Reports are counted in their files: what a program's children exit with is what it tests.
  env "${short^^}_OPTIONS=$(printenv "${short^^}_OPTIONS"):log_path=$build/report.$base:exitcode=0" \
    "$program" >"$build/$base.out" 2>&1 || status=$?
  reports=0 orphans=0
  for report in "$build/report.$base".*; do
    [ -f "$report" ] || continue
    found=$(grep -cE '^(==.*ERROR|WARNING: ThreadSanitizer)' "$report" || true)
    # A forked child whose parent's threads, and what their stacks hold, are not in it (README.md). Leaks only.
    if [ "$found" = 1 ] && grep -q '^==.*ERROR: LeakSanitizer' "$report" \
      && grep -q 'was not suspended. False leaks are possible' "$report"; then
      orphans=$((orphans + 1))
      continue
    fi
    reports=$((reports + found))
    [ "$found" = 0 ] || head -60 "$report"
  done
  say "tests/c/$base: $(grep -E '^[0-9]+ passed' "$build/$base.out" || echo 'did not end'), $reports reports$(
    [ $orphans = 0 ] || echo ", leaks not judged in $orphans forked children")"
  if [ $status != 0 ] || [ "$reports" != 0 ]; then
    failed=1
    grep -B2 -A3 FAILED "$build/$base.out" || true
  fi
done

# What was suppressed, of all programs together.
cat "$build"/report.*.* 2>/dev/null | sed -n 's/^ *\([0-9][0-9]*\) \(race:.*\)$/\1 \2/p' \
  | awk '{ count[$2] += $1 } END { for (name in count) print "suppressed: " name ", " count[name] " times" }' | sort \
  | tee -a "$results"

# 5. The Rust tests of the library, but for those that bound the time that something takes, and those of grammars and
# templates, which have no unsafe code: some take many minutes each.
status=0
filter="--skip grammar:: --skip template:: --skip long_streams_stay_linear"
[ $name = address ] || filter="runtime:: capi:: log:: guard:: mlx:: aside::"
# shellcheck disable=SC2086
nice cargo test --release --lib --target $target "${std[@]}" -- $filter >"$build/rust.out" 2>&1 || status=$?
say "cargo test --lib $filter: $(grep -E '^test result' "$build/rust.out" | sed 's/; finished.*//' || echo 'did not end'), $(grep -cE '^(==.*ERROR|WARNING: ThreadSanitizer)' "$build/rust.out" || true) reports"
[ $status = 0 ] || { failed=1; grep -vE '\.\.\. ok$' "$build/rust.out" | tail -80; }

[ $failed = 0 ] || { say "make $short: FAILED"; exit 1; }
say "make $short: everything passed"
