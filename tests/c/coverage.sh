#!/bin/sh
# coverage.sh HEADER SOURCES...: fails when a function of the header is not called in the sources.
set -eu
header=$1
shift
functions=$(sed -n 's/^[A-Za-z].*[ *]\(mlxrt_[a-z_]*\)(.*/\1/p' "$header" | grep -v '_fn$' | sort -u)
[ "$(printf '%s\n' "$functions" | wc -l)" -ge 20 ] || { echo "coverage.sh: no functions found in $header"; exit 1; }
missing=
for function in $functions; do
  grep -q "[^a-z_\"]$function(" "$@" || missing="$missing $function"
done
[ -z "$missing" ] || { echo "tests/c does not call:$missing"; exit 1; }
echo "tests/c calls all $(printf '%s\n' "$functions" | wc -l) functions of $(basename "$header")"
