#!/bin/sh
# surface.sh HEADER LIBRARY SOURCES...: fails when a function of the header is not called in the sources, or when the
# library exports anything else than the functions of the header.
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
[ -z "$missing" ] || { echo "tests/c does not call:$missing"; exit 1; }

exports=$(nm -D --defined-only "$library" | awk '{ print $NF }' | LC_ALL=C sort -u)
[ "$exports" = "$functions" ] || {
  echo "$library and $header differ: library < > header"
  printf '%s\n' "$exports" >"${TMPDIR:-/tmp}/exports.$$"
  printf '%s\n' "$functions" | diff "${TMPDIR:-/tmp}/exports.$$" - || true
  rm -f "${TMPDIR:-/tmp}/exports.$$"
  exit 1
}
echo "tests/c calls all $count functions of $(basename "$header"), and the library exports exactly these"
