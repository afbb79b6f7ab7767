#!/bin/sh
# ship.sh RELEASE OUT: links the library that users get, OUT/libmlxrt.so.1, from RELEASE/libmlxrt.a (cargo's staticlib),
# and puts what it needs beside it.
#
# It differs from cargo's own libmlxrt.so in its version script, src/capi/exports.map: rustc writes an anonymous one for
# a cdylib, and a second one clashes. A program that needs a newer function thus fails at its start. Debug information
# goes into OUT/.debug, where debuggers and backtraces look for it.
set -eu
release=$1 out=$2
root=$(cd "$(dirname "$0")/.." && pwd)

# On a Mac cargo's dylib is what ships: its id is @rpath/libmlxrt.dylib, and MLX is inside of it but for its kernels,
# which mlx-sys leaves in a folder of the user's or in MLX_RS_METAL_PATH. Written without a Mac, never run.
if [ "$(uname -s)" = Darwin ]; then
  metal=${MLX_RS_METAL_PATH:-$(ls -td "$HOME"/.mlx/lib/*/ 2>/dev/null | head -1)}
  for file in "$release/libmlxrt.dylib" "$metal/mlx.metallib"; do
    [ -e "$file" ] || { echo "ship.sh: $file is missing; run cargo build --release first" >&2; exit 1; }
  done
  rm -rf "$out"
  mkdir -p "$out"
  cp "$metal/mlx.metallib" "$out/"
  cp "$release/libmlxrt.dylib" "$out/"
  dsymutil "$out/libmlxrt.dylib" -o "$out/libmlxrt.dylib.dSYM"
  strip -x "$out/libmlxrt.dylib"
  codesign --force --sign - "$out/libmlxrt.dylib"
  echo "$out/libmlxrt.dylib: $(wc -c <"$out/libmlxrt.dylib") bytes"
  exit 0
fi

cxx=${CXX:-c++} objcopy=${OBJCOPY:-objcopy}
library=$out/libmlxrt.so.1

# Where MLX lies: beside the library, or in the folder that MLXRT_MLX_DIR named for the build, to be used from there.
if [ -n "${MLXRT_MLX_DIR:-}" ]; then
  mlx=$MLXRT_MLX_DIR/lib rpath=$MLXRT_MLX_DIR/lib
else
  mlx=$release rpath='$ORIGIN'
fi
for file in "$release/libmlxrt.a" "$mlx/libmlx.so"; do
  [ -e "$file" ] || { echo "ship.sh: $file is missing; run cargo build --release first" >&2; exit 1; }
done

rm -rf "$out"
mkdir -p "$out/.debug"

# As build.rs links the cdylib, but for --exclude-libs: here it would hide all of libmlxrt.a, and the version script
# hides what it does not list. What is not reachable from the exports is left out. -Bsymbolic-functions: a copy that a
# plugin brings uses its own functions, also where the program has linked another.
"$cxx" -shared -o "$library.tmp" \
  -Wl,--whole-archive "$release/libmlxrt.a" -Wl,--no-whole-archive \
  -L"$mlx" -lmlx -lgcc_s -lpthread -lm -ldl -lc \
  -Wl,--version-script="$root/src/capi/exports.map" \
  -Wl,-soname,libmlxrt.so.1 -Wl,-z,nodelete -Wl,-z,defs -Wl,-z,relro,-z,now \
  -Wl,--disable-new-dtags "-Wl,-rpath,$rpath" \
  -Wl,-Bsymbolic-functions -Wl,--gc-sections -Wl,--as-needed -Wl,--build-id=sha1

"$objcopy" --only-keep-debug --compress-debug-sections "$library.tmp" "$out/.debug/libmlxrt.so.1.debug"
"$objcopy" --strip-all "--add-gnu-debuglink=$out/.debug/libmlxrt.so.1.debug" "$library.tmp"
chmod 755 "$library.tmp"
chmod 644 "$out/.debug/libmlxrt.so.1.debug"
mv "$library.tmp" "$library"
ln -s libmlxrt.so.1 "$out/libmlxrt.so"
if [ -z "${MLXRT_MLX_DIR:-}" ]; then
  for file in "$release"/libmlx.so "$release"/lib*-[0-9a-f]*.so.*; do
    [ ! -e "$file" ] || cp "$file" "$out/"
  done
fi
size() { wc -c <"$1" | awk '{ printf "%.1f MB", $1 / 1000000 }'; }
echo "$library: $(size "$library"), and $(size "$out/.debug/libmlxrt.so.1.debug") of debug information"
