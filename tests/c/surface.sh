#!/bin/sh
# surface.sh HEADER LIBRARY SOURCES...: fails when a function of the header is not called in the sources, when a struct of
# it is not in skew.c (where that is one of them), or when the library ("-" for none) exports anything else than the
# functions of the header.
set -eu
header=$1 library=$2
shift 2
functions=$(sed -n 's/^[A-Za-z].*[ *]\(mlxrt_[a-z_]*\)(.*/\1/p' "$header" | grep -v '_fn$' | LC_ALL=C sort -u)
count=$(printf '%s\n' "$functions" | wc -l)
[ "$count" -ge 20 ] || { echo "surface.sh: no functions found in $header"; exit 1; }

missing=
for function in $functions; do
  grep -q "[^a-z_\"]$function(" "$@" || missing="$missing $function"
done
[ -z "$missing" ] || { echo "$* does not call:$missing"; exit 1; }

case " $* " in *" skew.c "*)
  structs=$(sed -n 's/^.*struct \(mlxrt_[a-z_]*\) {$/\1/p' "$header")
  for struct in $structs; do
    grep -q "sizeof($struct)\|const $struct \*" skew.c || { echo "skew.c has no $struct"; exit 1; }
  done
esac

[ "$library" != - ] || { echo "$* calls all $count functions of $(basename "$header")"; exit 0; }
# (A is a version's own name.)
exports=$(nm -D --defined-only "$library" | awk '$2 != "A" { sub(/@.*/, "", $NF); print $NF }' | LC_ALL=C sort -u)
[ "$exports" = "$functions" ] || {
  echo "$library and $header differ: library < > header"
  printf '%s\n' "$exports" >"${TMPDIR:-/tmp}/exports.$$"
  printf '%s\n' "$functions" | diff "${TMPDIR:-/tmp}/exports.$$" - || true
  rm -f "${TMPDIR:-/tmp}/exports.$$"
  exit 1
}
echo "tests/c calls all $count functions of $(basename "$header"), and the library exports exactly these"
