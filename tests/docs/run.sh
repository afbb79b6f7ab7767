#!/bin/sh
# run.sh BUILD: every C and C++ block of the documents compiles, without a warning, docs/abi.md is what the header says, links
# lead somewhere, and pictures are whole.
# A block with a main or an include is a program; another one is the inside of a function, with fragment.h around it.
set -eu
build=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
rm -rf "$build"
mkdir -p "$build"

python3 "$root/tests/docs/blocks.py" "$root" "$build"
programs=0
for source in "$build"/*.c "$build"/*.cpp; do
  [ -e "$source" ] || continue
  case $source in
    *.cpp) compile="${CXX:-c++} -std=c++17 -I$root/bindings/cpp" ;;
    *) compile="${CC:-cc} -std=c11 -D_GNU_SOURCE -Wno-missing-field-initializers" ;;
  esac
  # shellcheck disable=SC2086
  $compile -Wall -Wextra -Wpedantic -Werror -I"$root/include" -I"$root/tests/docs" -fsyntax-only "$source" ||
    { echo "tests/docs: $(head -1 "$source") does not compile"; exit 1; }
  programs=$((programs + 1))
done
[ "$programs" -ge 10 ] || { echo "tests/docs: only $programs blocks were found"; exit 1; }

python3 "$root/scripts/abi.py" "$root/include/mlxrt.h" >"$build/abi.md"
cmp -s "$build/abi.md" "$root/docs/abi.md" || { echo "docs/abi.md is not what the header says: run make docs"; exit 1; }
functions=$(sed -n 's/^[A-Za-z].*[ *]\(mlxrt_[a-z_]*\)(.*/\1/p' "$root/include/mlxrt.h" | grep -v '_fn$' | sort -u)
for function in $functions; do
  grep -q "^### $function$" "$build/abi.md" || { echo "docs/abi.md has no $function"; exit 1; }
done
# Names in the documents are names of the header.
grep -oh 'mlxrt_[a-z_]*[a-z]\|MLXRT_[A-Z_]*[A-Z]' "$root/README.md" "$root"/docs/*.md | sort -u | while read -r name; do
  case $name in mlxrt_E | MLXRT_MLX_DIR | MLXRT_SHARED) continue ;; esac
  grep -qE "$name" "$root/include/mlxrt.h" || { echo "the documents speak of $name, which the header does not have"; exit 1; }
done
# Numbers that the guide takes from the source.
number() { # FILE NAME
  sed -n "s/^const $2: [a-z0-9]* = \([0-9]*\);.*/\1/p" "$root/src/runtime/$1"
}
for words in "parked when it is $(number job.rs RUN_AHEAD) events ahead" \
  "on a GPU up to $(number estimate.rs GPU_PREFILL_STEP) tokens"; do
  grep -qF "$words" "$root/docs/embedding.md" || { echo "docs/embedding.md does not say \"$words\""; exit 1; }
done
python3 "$root/tests/docs/links.py" "$root"
echo "tests/docs: $programs blocks compile, and docs/abi.md is current"
