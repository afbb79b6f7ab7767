#!/bin/sh
# The complete program in the header's opening: taken out, compiled, and run on the demo model.
#   opening.sh HEADER LIB BUILD MODEL
set -eu
header=$1 lib=$2 build=$3 model=$4
sed -n '/A complete program:/,/CONVENTIONS/s/^ \*   //p' "$header" > "$build/opening.c"
${CC:-cc} -std=c99 -Wall -Wextra -Wpedantic -Werror -I"$(dirname "$header")" "$build/opening.c" -o "$build/opening" \
  -L"$lib" -lmlxrt -Wl,-rpath,"$lib"
answer=$("$build/opening" "$model")
echo "the program in the header answers: $answer"
[ "${#answer}" -gt 40 ]
