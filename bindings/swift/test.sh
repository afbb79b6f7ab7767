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
    -o .build/bridged && .build/bridged "$2"' sh "$prefix" "$model" | tee .build/bridged.txt
if [ -e "$model/config.json" ]; then
  grep -q Paris .build/bridged.txt
else
  grep -q 'error 3:' .build/bridged.txt
fi
# And the sample chat.
if [ -e "$model/config.json" ]; then
  echo "What is the capital of France?" | "$swift" . swift run --skip-build "${rpath[@]}" mlxrt-chat "$model" | grep Paris
fi
./docs.sh
echo "test-swift: everything passed"
