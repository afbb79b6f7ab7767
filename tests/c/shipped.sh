#!/bin/sh
# shipped.sh HEADER LIB BUILD: how LIB/libmlxrt.so.1, the library that users get, is linked, and what becomes of programs
# that are newer than it.
set -eu
header=$1 lib=$2 build=$3
cc="${CC:-cc} -std=c99 -Wall -Wextra -Wpedantic -Werror"
library=$lib/libmlxrt.so.1
passed=0

fail() { echo "shipped.sh: $*"; exit 1; }
build_id() { readelf -nW "$1" | sed -n 's/.*Build ID: //p'; }
ok() { passed=$((passed + 1)); }

# ---- How it is linked ----

dynamic=$(readelf -dW "$library")
has() { printf '%s\n' "$dynamic" | grep -q "$1" || fail "$library has no $1: $dynamic"; ok; }
has 'SONAME.*\[libmlxrt\.so\.1\]'
has 'FLAGS_1.*NODELETE'
has 'FLAGS_1.*NOW'
# RPATH and not RUNPATH: it also serves what libmlx.so needs. A build for MLXRT_MLX_DIR names that folder.
has '(RPATH).*\[.*\]'
[ -n "${MLXRT_MLX_DIR:-}" ] || has '(RPATH).*\[\$ORIGIN\]'
printf '%s\n' "$dynamic" | grep -q RUNPATH && fail "$library has a RUNPATH"
printf '%s\n' "$dynamic" | grep -q TEXTREL && fail "$library has text relocations"
readelf -lW "$library" | grep -q 'GNU_STACK.* RW ' || fail "$library asks for an executable stack"
readelf -SW "$library" | grep -q '\.debug_\|\.symtab' && fail "$library is not stripped"
readelf -SW "$library" | grep -q '\.gnu_debuglink' || fail "$library does not say where its debug information is"
nm --defined-only "$lib/.debug/libmlxrt.so.1.debug" | grep -q ' mlxrt_version' || fail "the debug information has no symbols"
[ "$(build_id "$library")" = "$(build_id "$lib/.debug/libmlxrt.so.1.debug")" ] || fail "the debug information is another library's"
[ "$(readlink "$lib/libmlxrt.so")" = libmlxrt.so.1 ] || fail "$lib/libmlxrt.so is no link to libmlxrt.so.1"
ok

# Nothing in it says where it was built. (What lies beside it comes out of MLX's wheel, which others built.)
root=$(cd "$(dirname "$0")/../.." && pwd)
home=${HOME-}; home=${home%/}
for file in "$library" "$lib/.debug/libmlxrt.so.1.debug"; do
  cp "$file" "$build/strings-of"
  objcopy --decompress-debug-sections "$build/strings-of" 2>/dev/null || true
  paths=$(strings -n 6 "$build/strings-of" | grep -F -e "$root/" -e "${home:-$root}/" -e "${CARGO_HOME:-$root}/" -e "${RUSTUP_HOME:-$root}/" || true)
  rm -f "$build/strings-of"
  [ -z "$paths" ] || fail "$file names paths of this machine: $(printf '%s\n' "$paths" | head -3); were its parts built without scripts/rustc.sh? cargo clean --release"
done
ok

# Every export has the version of its release, and nothing else is exported.
exports=$(nm -D --defined-only --with-symbol-versions "$library" | awk '{ print $2, $NF }')
foreign=$(printf '%s\n' "$exports" | grep -v '^T mlxrt_[a-z_]*@@MLXRT_[0-9]*$' | grep -v '^A MLXRT_[0-9]*\(@.*\)*$' || true)
[ -z "$foreign" ] || fail "$library exports $foreign"
newest=$(printf '%s\n' "$exports" | sed -n 's/^A MLXRT_\([0-9]*\).*/\1/p' | sort -n | tail -1)
abi=$(sed -n 's/^#define MLXRT_ABI \([0-9]*\)u$/\1/p' "$header")
[ "$newest" = "$abi" ] || fail "$library has versions up to $newest, MLXRT_ABI is $abi"
ok

# ---- Programs that are newer ----

# The next version, made up: all that there is, and one function more.
next=$((abi + 1))
stub=$build/next
mkdir -p "$stub"
functions=$(printf '%s\n' "$exports" | sed -n 's/^T \(mlxrt_[a-z_]*\)@@MLXRT_1$/\1/p')
{
  for function in $functions; do echo "void $function(void); void $function(void) {}"; done
  echo "int mlxrt_new_thing(void); int mlxrt_new_thing(void) { return 42; }"
} >"$stub/stub.c"
{
  echo "MLXRT_1 { global:"
  for function in $functions; do echo "  $function;"; done
  echo "local: *; };"
  echo "MLXRT_$next { global: mlxrt_new_thing; } MLXRT_1;"
} >"$stub/stub.map"
# shellcheck disable=SC2086
$cc -shared -fPIC -fno-builtin "$stub/stub.c" -o "$stub/libmlxrt.so.1" -Wl,-soname,libmlxrt.so.1 \
  -Wl,--version-script="$stub/stub.map"
ln -sf libmlxrt.so.1 "$stub/libmlxrt.so"

cat >"$stub/newer.c" <<'C'
#include <mlxrt.h>
#include <stdio.h>
int mlxrt_new_thing(void);
int main(int argc, char **argv) {
  (void)argv;
  printf("started\n");
  /* Only when it is asked to: nobody would call it, were there no check at the start. */
  return argc > 1 ? mlxrt_new_thing() : mlxrt_abi_version() > 99;
}
C
cat >"$stub/plain.c" <<'C'
#include <mlxrt.h>
#include <stdio.h>
int main(void) {
  printf("version %s\n", mlxrt_version());
  return mlxrt_abi_version() == MLXRT_ABI ? 0 : 1;
}
C
# Lazy binding: without versions, a missing function would show when it is called.
for program in newer plain; do
  # shellcheck disable=SC2086
  $cc -I"$(dirname "$header")" "$stub/$program.c" -o "$stub/$program" -L"$stub" -lmlxrt -Wl,-z,lazy
done
unset LD_BIND_NOW || true

# With the version that it was made for it runs.
out=$(LD_LIBRARY_PATH=$stub "$stub/newer" call) && code=0 || code=$?
[ "$code" = 42 ] && [ "$out" = started ] || fail "newer with its own library: $code, $out"
ok
# With the library of today it does not start, and the dynamic linker says why.
out=$(LD_LIBRARY_PATH=$lib "$stub/newer" 2>&1) && code=0 || code=$?
[ "$code" != 0 ] || fail "a program that needs MLXRT_$next ran: $out"
case $out in
  *started*) fail "a program that needs MLXRT_$next was started: $out" ;;
  *"MLXRT_$next"*"not found"*) ok ;;
  *) fail "a program that needs MLXRT_$next was refused without saying so: $out" ;;
esac
echo "a newer program is refused at its start: $(printf '%s' "$out" | sed 's|[^ ]*/||g')"
# One that was compiled with the next version and uses nothing of it asks for today's, and runs.
readelf -VW "$stub/plain" | grep -q 'Name: MLXRT_1 ' || fail "plain does not ask for MLXRT_1"
readelf -VW "$stub/plain" | grep -q "Name: MLXRT_$next " && fail "plain asks for MLXRT_$next"
out=$(LD_LIBRARY_PATH=$lib "$stub/plain") || fail "a program that needs only MLXRT_1 was refused: $out"
case $out in "version "[0-9]*) ok ;; *) fail "plain says $out" ;; esac

echo "shipped.sh: $passed checks passed"
