#!/bin/bash
# test.sh: the package's tests against the library that is installed in MLXRT_PREFIX; `make test-swift` calls it.
# Arguments go to `swift test` (--filter NAME).
set -euo pipefail
cd "$(dirname "$0")"
prefix=$(cd "${MLXRT_PREFIX:?names where mlxrt is installed}" && pwd -P)
swift=../../scripts/swift.sh
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
export MLXRT_SWIFT_BINDS=$prefix${MLXRT_DEMO_MODEL:+:$MLXRT_DEMO_MODEL}
rpath=(-Xlinker -rpath -Xlinker "$prefix/lib")

# Warnings are errors, but for those of SwiftPM, which knows no -rpath in mlxrt.pc.
"$swift" . swift build --build-tests -Xswiftc -warnings-as-errors "${rpath[@]}"
"$swift" . swift test --skip-build -Xswiftc -warnings-as-errors "${rpath[@]}" "$@"
[ $# -eq 0 ] || exit 0

# An app that has a bridging header and not the package.
model=${MLXRT_DEMO_MODEL:-$(cd ../.. && pwd -P)/demo/model}
"$swift" . sh -c '
  swiftc -swift-version 6 -warnings-as-errors -import-objc-header Samples/BridgingHeader/App-Bridging-Header.h \
    -I "$1/include" -L "$1/lib" -lmlxrt -Xlinker -rpath -Xlinker "$1/lib" Samples/BridgingHeader/main.swift \
    -o .build/bridged' sh "$prefix"
if [ -e "$model/config.json" ]; then
  "$swift" . .build/bridged "$model" | grep Paris
fi
# A program that cannot do its work exits with 1, and says why.
exits_with_1() {
  local status=0
  "$@" >.build/failed.txt 2>&1 || status=$?
  cat .build/failed.txt
  [ "$status" = 1 ] && grep -q "/no/such/model" .build/failed.txt
}
exits_with_1 "$swift" . .build/bridged /no/such/model
# And the sample chat.
if [ -e "$model/config.json" ]; then
  echo "What is the capital of France?" | "$swift" . swift run --skip-build "${rpath[@]}" mlxrt-chat "$model" | grep Paris
fi
# README.md's program, built by its own lines.
rm -rf .build/hello
mkdir -p .build/hello/Sources/hello
sed -n "/^cat >Package.swift/,/^END/p" README.md | sed '1d;$d' | MLXRT=$(cd ../.. && pwd -P) sh -c 'while IFS= read -r line; do
  case $line in *\$MLXRT*) printf "%s%s%s\n" "${line%%\$MLXRT*}" "$MLXRT" "${line#*\$MLXRT}" ;; *) printf "%s\n" "$line" ;; esac
done' >.build/hello/Package.swift
sed -n "/^cat >Sources.hello.main.swift/,/^END/p" README.md | sed '1d;$d' >.build/hello/Sources/hello/main.swift
hello=(swift run --package-path .build/hello "${rpath[@]}" hello)
if [ -e "$model/config.json" ]; then
  "$swift" . "${hello[@]}" "$model" | grep Paris
fi
exits_with_1 "$swift" . "${hello[@]}" /no/such/model
./docs.sh
echo "test-swift: everything passed"
