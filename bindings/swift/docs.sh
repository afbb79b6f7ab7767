#!/bin/bash
# docs.sh: checks that every public symbol of the package has a comment and that the articles' links lead somewhere, and
# makes the documentation, .build/Mlxrt.doccarchive. PKG_CONFIG_PATH finds mlxrt.
set -euo pipefail
cd "$(dirname "$0")"
swift=../../scripts/swift.sh
rm -rf .build/symbols
"$swift" . swift build --target Mlxrt -Xswiftc -emit-symbol-graph -Xswiftc -emit-symbol-graph-dir -Xswiftc .build/symbols >/dev/null
python3 - .build/symbols/Mlxrt.symbols.json <<'END'
import json, sys
symbols = json.load(open(sys.argv[1]))["symbols"]
# What the compiler makes (==, hash, init from a macro) has another's comment or none, and no place in the source.
own = [s for s in symbols if "location" in s and s["accessLevel"] == "public"]
bare = [".".join(s["pathComponents"]) for s in own if not s.get("docComment")]
print(f"{len(own)} public symbols, {len(bare)} without a comment")
for name in bare:
    print("  " + name)
sys.exit(1 if bare or len(own) < 200 else 0)
END
# The toolchain that has swift has docc beside it, or in its libexec.
"$swift" . sh -c '
  docc=$(command -v docc || xcrun --find docc 2>/dev/null || echo /usr/libexec/swift/bin/docc)
  rm -rf .build/graphs && mkdir .build/graphs && cp .build/symbols/Mlxrt*.symbols.json .build/graphs/
  "$docc" convert Sources/Mlxrt/Mlxrt.docc --additional-symbol-graph-dir .build/graphs \
    --fallback-display-name Mlxrt --fallback-bundle-identifier dev.mlxrt.Mlxrt \
    --warnings-as-errors --output-path .build/Mlxrt.doccarchive'
