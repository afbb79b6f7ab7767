#!/bin/sh
# run.sh ARCHIVE: the archive as its users meet it. It is unpacked somewhere else and used with an empty environment: checked,
# then every example and the README's programs are built with pkg-config, with CMake and with the README's own lines, and run;
# the links of the installed documents lead somewhere.
set -eu
archive=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
fixtures=$root/tests/fixtures
model=$fixtures/models/llama-f32
adapter=$fixtures/adapters/mlx-lora-llama
passed=0

fail() { echo "tests/install: $*" >&2; exit 1; }
ok() { passed=$((passed + 1)); }
# With nothing of this shell's: no LD_LIBRARY_PATH, no PKG_CONFIG_PATH, no home.
mkdir "$work/home" "$work/elsewhere" "$work/build"
bare() { env -i PATH=/usr/local/bin:/usr/bin:/bin HOME="$work/home" TMPDIR="$work" "$@"; }

for tool in cc c++ python3 pkg-config cmake readelf nm; do
  command -v "$tool" >/dev/null || fail "$tool is missing (Debian, Ubuntu: apt install build-essential pkg-config cmake)"
done

# ---- The archive ----
(cd "$(dirname "$archive")" && sha256sum --check --quiet "$(basename "$archive").sha256") || fail "the checksum is wrong"
ok
tar xzf "$archive" -C "$work/elsewhere"
prefix=$work/elsewhere/$(basename "$archive" .tar.gz)
[ "$(ls "$work/elsewhere")" = "$(basename "$prefix")" ] || fail "the archive has more than one folder"
for file in README.md include/mlxrt.h include/mlxrt.hpp include/module.modulemap lib/libmlxrt.so.1 lib/libmlxrt.so \
  lib/libmlx.so lib/pkgconfig/mlxrt.pc lib/cmake/mlxrt/mlxrtConfig.cmake lib/cmake/mlxrt/mlxrtConfigVersion.cmake \
  share/doc/mlxrt/README.md share/doc/mlxrt/docs/embedding.md share/doc/mlxrt/docs/models.md share/doc/mlxrt/docs/json.md \
  share/doc/mlxrt/docs/pictures/ledger.svg share/doc/mlxrt/docs/sessions.md share/doc/mlxrt/docs/tools.md share/doc/mlxrt/cli/README.md share/doc/mlxrt/examples/hello.c \
  share/licenses/mlxrt/COMPONENTS.txt share/licenses/mlxrt/RUST-CRATES.txt; do
  [ -s "$prefix/$file" ] || fail "the archive has no $file"
done
[ "$(readlink "$prefix/lib/libmlxrt.so")" = libmlxrt.so.1 ] || fail "libmlxrt.so is no link to libmlxrt.so.1"
cmp "$root/include/mlxrt.h" "$prefix/include/mlxrt.h"
ok
python3 "$root/tests/docs/links.py" "$prefix" --installed || fail "an installed document has a dead link"
# The check finds one.
echo "[gone](nowhere.md)" >>"$prefix/share/doc/mlxrt/docs/json.md"
if python3 "$root/tests/docs/links.py" "$prefix" --installed 2>"$work/log"; then fail "links.py does not see a dead link"; fi
grep -q "nowhere.md is not there" "$work/log" || fail "links.py says $(cat "$work/log")"
sed -i '$d' "$prefix/share/doc/mlxrt/docs/json.md"
ok

# It may lie anywhere.
for library in "$prefix"/lib/*.so*; do
  readelf -dW "$library" | sed -n 's/.*\(RPATH\|RUNPATH\).*\[\(.*\)\]/\2/p' | tr ':' '\n' | while read -r folder; do
    # shellcheck disable=SC2016
    case $folder in '$ORIGIN' | '$ORIGIN'/*) ;; *) fail "$(basename "$library") looks in $folder" ;; esac
  done
done
grep -rIl -e "$root" "$prefix/include" "$prefix/lib/pkgconfig" "$prefix/lib/cmake" && fail "a file names the folder of the build"
# Nor does a program (but MLX, which others built): not this folder, nor where cargo keeps its crates.
for file in lib/libmlxrt.so.1 bin/mlxrt; do
  grep -aq -e "$root/" -e '/registry/src/' "$prefix/$file" && fail "$file names folders of the machine that built it"
done
ok
loaded=$(bare ldd "$prefix/lib/libmlxrt.so.1")
case $loaded in *"not found"*) fail "a library is missing: $loaded" ;; esac
for library in libmlx libblas liblapack; do
  printf '%s\n' "$loaded" | grep -q "$library.* => $prefix/lib/" || fail "$library does not come from the archive: $loaded"
done
ok

# The library has exactly the functions of its header.
functions=$(sed -n 's/^[A-Za-z].*[ *]\(mlxrt_[a-z_]*\)(.*/\1/p' "$prefix/include/mlxrt.h" | grep -v '_fn$' | LC_ALL=C sort -u)
exports=$(nm -D --defined-only "$prefix/lib/libmlxrt.so.1" | awk '$2 != "A" { sub(/@.*/, "", $NF); print $NF }' | LC_ALL=C sort -u)
[ "$exports" = "$functions" ] || fail "the library exports other functions than its header has"
ok

# One version everywhere.
pc() { bare PKG_CONFIG_PATH="$prefix/lib/pkgconfig" pkg-config "$@"; }
cat >"$work/version.c" <<'C'
#include <mlxrt.h>
#include <stdio.h>
int main(void) { return puts(mlxrt_version()) < 0 || mlxrt_abi_version() != MLXRT_ABI; }
C
# shellcheck disable=SC2046
bare cc "$work/version.c" -o "$work/version" $(pc --cflags --libs mlxrt)
version=$(bare "$work/version")
[ "$(pc --modversion mlxrt)" = "$version" ] || fail "the library is $version, mlxrt.pc says $(pc --modversion mlxrt)"
case $(basename "$prefix") in mlxrt-"$version"-*) ;; *) fail "the library is $version, the archive $(basename "$prefix")" ;; esac
mkdir "$work/find"
cat >"$work/find/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.13)
project(find C)
find_package(mlxrt ${ASKED} QUIET)
message(STATUS "found=${mlxrt_FOUND} version=${mlxrt_VERSION}")
CMAKE
find_version() {
  bare cmake -S "$work/find" -B "$work/find/$1" -DCMAKE_PREFIX_PATH="$prefix" -DASKED="$1" 2>&1 | sed -n 's/^-- \(found=.*\)/\1/p'
}
[ "$(find_version "$version")" = "found=1 version=$version" ] || fail "cmake for $version: $(find_version "$version")"
[ "$(find_version 0.0.9)" = "found=1 version=$version" ] || fail "cmake for an older one: $(find_version 0.0.9)"
case $(find_version 99.0) in found=0*) ;; *) fail "cmake for version 99: $(find_version 99.0)" ;; esac
ok

# Every component has its text.
sed -n '3,$p' "$prefix/share/licenses/mlxrt/COMPONENTS.txt" | awk 'NR % 3 == 0' | tr ',' '\n' | sed 's/^ *//' | sort -u |
  while read -r text; do
    case $text in *" "*) continue ;; esac
    [ -s "$prefix/share/licenses/mlxrt/$text" ] || fail "share/licenses has no $text"
  done
for component in mlx-c MLX libblas3 liblapack3 libgfortran5 libquadmath0 tokenizers serde_json; do
  grep -q "^$component\|^$component " "$prefix/share/licenses/mlxrt/COMPONENTS.txt" || fail "COMPONENTS.txt has no $component"
done
ok

# ---- The examples ----
examples=$prefix/share/doc/mlxrt/examples
# What is there, by its name without an ending; chat.cpp is chat_cpp.
programs=$(cd "$examples" && for file in *.c *.cpp; do
  case $file in *.cpp) echo "${file%.cpp}_cpp" ;; *) echo "${file%.c}" ;; esac
done)
printf '{"prompt":"ab","completion":"ba"}\n%.0s' 1 2 >"$work/data.jsonl"
# A program that cannot do its work exits with 1, and says why.
exits_with_1() { # PROGRAM ARGUMENT...
  status=0
  bare "$@" >"$work/out" 2>&1 || status=$?
  [ "$status" = 1 ] || fail "$(basename "$1") exits with $status on an error: $(cat "$work/out")"
  grep -q '/no/such/model' "$work/out" || fail "$(basename "$1") does not say what is wrong: $(cat "$work/out")"
}
run_examples() { # FOLDER SAYS
  for program in $programs; do [ -x "$1/$program" ] || fail "$2 did not build $program"; done
  for example in hello errors threads chat; do
    bare "$1/$example" "$model" >"$work/out" 2>&1 || { cat "$work/out"; fail "$example, built with $2, failed"; }
    [ -s "$work/out" ] || fail "$example, built with $2, says nothing"
  done
  bare "$1/adapters" "$model" "$adapter" >"$work/out" || fail "adapters, built with $2, failed"
  said() { sed -n "/^\[$1\]/,/^\[/{s/^\[$1\]//;/^\[/!p;}" "$work/out"; }
  [ -n "$(said 'no adapter')" ] && [ "$(said 'no adapter')" = "$(said 'taken off')" ] || fail "adapters: taken off is not plain: $(cat "$work/out")"
  [ "$(said 'no adapter')" != "$(said "$(basename "$adapter")")" ] || fail "adapters: the adapter changes nothing: $(cat "$work/out")"
  bare "$1/plugin_host" "$prefix/lib/libmlxrt.so.1" "$model" >"$work/out" || fail "plugin_host, built with $2, failed"
  grep -q "^mlxrt $version$" "$work/out" || fail "plugin_host says $(cat "$work/out")"
  bare "$1/chat_cpp" "$model" "Hello" >"$work/out" || fail "chat.cpp, built with $2, failed"
  rm -rf "$work/trained"
  bare "$1/train" "$model" "$work/data.jsonl" "$work/data.jsonl" "$work/trained" 2 1 >"$work/out" 2>&1 ||
    fail "train, built with $2, failed: $(cat "$work/out")"
  [ -s "$work/trained/adapters.safetensors" ] || fail "train, built with $2, saved nothing"
  for example in hello errors threads chat adapters train; do
    exits_with_1 "$1/$example" /no/such/model "$adapter" "$work/data.jsonl" "$work/trained"
  done
  exits_with_1 "$1/chat_cpp" /no/such/model Hello
  exits_with_1 "$1/plugin_host" "$prefix/lib/libmlxrt.so.1" /no/such/model
  ok
}

mkdir "$work/pc"
for example in $programs; do
  case $example in plugin_host | *_cpp) continue ;; esac
  # shellcheck disable=SC2046
  bare cc -std=c99 -Wall -Wextra -Wpedantic -Werror "$examples/$example.c" -o "$work/pc/$example" \
    $(pc --cflags --libs mlxrt) -lpthread
done
# shellcheck disable=SC2046
bare cc -std=c99 -Wall -Wextra -Wpedantic -Werror "$examples/plugin_host.c" -o "$work/pc/plugin_host" $(pc --cflags mlxrt) -ldl
for example in "$examples"/*.cpp; do
  # shellcheck disable=SC2046
  bare c++ -std=c++17 -Wall -Wextra -Wpedantic -Werror "$example" -o "$work/pc/$(basename "$example" .cpp)_cpp" $(pc --cflags --libs mlxrt)
done
run_examples "$work/pc" pkg-config

bare cmake -S "$examples" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_FLAGS="-Wall -Werror" >"$work/log" 2>&1 ||
  { cat "$work/log"; fail "cmake failed"; }
bare cmake --build "$work/cmake" >"$work/log" 2>&1 || { cat "$work/log"; fail "cmake --build failed"; }
run_examples "$work/cmake" CMake

# ---- The README's own programs and lines ----
cd "$work/build"
block() { # LANGUAGE: the first such block with a main
  awk -v fence="\`\`\`$1" '$0 == fence { inside = 1; text = ""; next } /^```/ { if (inside && text ~ /int main/) { printf "%s", text; exit } inside = 0 }
    inside { text = text $0 "\n" }' "$root/README.md"
}
block c >hello.c
block cpp >hello.cpp
[ -s hello.c ] && [ -s hello.cpp ] || fail "the README has no hello.c or hello.cpp"
lines=$(grep -E '^(cc|c\+\+) .*hello\.c' "$root/README.md")
[ "$(printf '%s\n' "$lines" | wc -l)" = 3 ] || fail "the README has other lines than these three were: $lines"
printf '%s\n' "$lines" >lines
# The first one on the demo model, as the README has it; it knows words.
answer=
while read -r line; do
  rm -f hello
  bare PREFIX="$prefix" sh -c "$line" || fail "the README's line fails: $line"
  if [ -z "$answer" ]; then
    answer=$(bare ./hello "$root/demo/model")
    echo "the README's hello.c: $answer"
    case $answer in *" the "*) ;; *) fail "that is no story" ;; esac
  else
    answer=$(bare ./hello "$model")
  fi
  [ -n "$answer" ] || fail "hello says nothing: $line"
  exits_with_1 ./hello /no/such/model
  ok
done <lines
cd "$root"

# ---- make install beside others ----
other=$work/shared
mkdir -p "$other/lib" "$other/include"
echo someone >"$other/lib/libmlx.so"
if "$root/scripts/install.sh" "$root/build/lib" "$other" >"$work/log" 2>&1; then fail "install.sh overwrote another's libmlx.so"; fi
grep -q "libmlx.so is there" "$work/log" || fail "install.sh says $(cat "$work/log")"
[ "$(cat "$other/lib/libmlx.so")" = someone ] || fail "install.sh changed another's libmlx.so"
rm "$other/lib/libmlx.so"
echo "module Other {}" >"$other/include/module.modulemap"
for _ in first again; do
  DESTDIR=$work/stage "$root/scripts/install.sh" "$root/build/lib" /usr/local >"$work/log"
  "$root/scripts/install.sh" "$root/build/lib" "$other" >"$work/log"
done
grep -q "module Other" "$other/include/module.modulemap" || fail "install.sh changed another's module map"
(cd "$work/stage/usr/local" && find . ! -type d | sort) >"$work/installed"
(cd "$prefix" && find . ! -type d ! -path ./README.md | sort) >"$work/archived"
cmp "$work/installed" "$work/archived" || fail "make install and make dist put other files: $(diff "$work/installed" "$work/archived")"
if "$root/scripts/install.sh" "$root/build/lib" relative >"$work/log" 2>&1; then fail "install.sh took a relative PREFIX"; fi
ok

# ---- The archive for CUDA, from a wheel that is made up: its libmlx.so is the CPU's ----
from=$("$root/scripts/mlx-wheel.sh" "$root/build/lib")
built=$(basename "$from"/mlx_cpu-*.dist-info .dist-info)
built=${built#mlx_cpu-}
wheel=$work/wheel
mkdir -p "$wheel/mlx/lib" "$wheel/mlx/include/cccl" "$wheel/mlx_cuda_13.libs"
cp "$from/mlx/lib/libmlx.so" "$wheel/mlx/lib/"
cp "$from"/mlx_cpu.libs/* "$wheel/mlx_cuda_13.libs/"
echo "// a header" >"$wheel/mlx/include/cccl/header.h"
cp -R "$from/mlx_cpu-$built.dist-info" "$wheel/mlx_cuda_13-$built.dist-info"
sed -i 's/mlx_cpu/mlx_cuda_13/g' "$wheel/mlx_cuda_13-$built.dist-info"/sboms/*.json
cuda() { MLX=cuda MLX_CUDA_WHEEL=$wheel "$root/scripts/dist.sh" "$root/build/lib" "$work/cuda" >"$work/log" 2>&1; }
cuda || fail "dist.sh for CUDA: $(cat "$work/log")"
name=$(basename "$archive" .tar.gz)-cuda13
tar xzf "$work/cuda/$name.tar.gz" -C "$work/elsewhere" || fail "there is no $name.tar.gz: $(ls "$work/cuda")"
prefix=$work/elsewhere/$name
[ -s "$prefix/include/cccl/header.h" ] || fail "the archive for CUDA has no headers"
grep -q "NVIDIA's own" "$prefix/README.md" || fail "the archive for CUDA does not say what it lacks"
grep -q "^libcu++" "$prefix/share/licenses/mlxrt/COMPONENTS.txt" || fail "the archive for CUDA has no licence of its headers"
# shellcheck disable=SC2046
bare cc "$prefix/share/doc/mlxrt/examples/hello.c" -o "$work/hello-cuda" $(pc --cflags --libs mlxrt)
[ -n "$(bare "$work/hello-cuda" "$model")" ] || fail "hello with the archive for CUDA says nothing"
mv "$wheel/mlx_cuda_13-$built.dist-info" "$wheel/mlx_cuda_13-9.9.9.dist-info"
if cuda; then fail "dist.sh took a CUDA wheel of another version"; fi
grep -q "another version than the MLX $built" "$work/log" || fail "dist.sh says $(cat "$work/log")"
ok

echo "tests/install: $passed checks passed"
