#!/bin/sh
# xcframework.sh OUT: OUT/CMlxrt.xcframework, for SwiftPM's binary target and for app projects: the library for macOS, iOS and
# the iOS simulator, each with mlx.metallib, the header and the module map in a framework. Needs a Mac with Xcode and the Rust
# targets aarch64-apple-darwin, aarch64-apple-ios and aarch64-apple-ios-sim.
#
# Written without a Mac, never run.
set -eu
out=$1
root=$(cd "$(dirname "$0")/.." && pwd)
[ "$(uname -s)" = Darwin ] || { echo "xcframework.sh: this needs a Mac with Xcode" >&2; exit 1; }
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -1)
work=$root/build/xcframework
rm -rf "$work" "$out/CMlxrt.xcframework"
mkdir -p "$work" "$out"

set --
for target in aarch64-apple-darwin aarch64-apple-ios aarch64-apple-ios-sim; do
  case $target in
    *-darwin) platform=MacOSX least=14.0 ;;
    *-sim) platform=iPhoneSimulator least=17.0 ;;
    *) platform=iPhoneOS least=17.0 ;;
  esac
  # mlx-sys leaves the kernels of each platform where this says.
  export MLX_RS_METAL_PATH="$work/metal-$target"
  mkdir -p "$MLX_RS_METAL_PATH"
  cargo build --release --locked --target "$target"

  framework=$work/$target/CMlxrt.framework
  mkdir -p "$framework/Headers" "$framework/Modules"
  cp "$root/target/$target/release/libmlxrt.dylib" "$framework/CMlxrt"
  strip -x "$framework/CMlxrt"
  install_name_tool -id @rpath/CMlxrt.framework/CMlxrt "$framework/CMlxrt"
  cp "$MLX_RS_METAL_PATH/mlx.metallib" "$framework/"
  cp "$root/include/mlxrt.h" "$framework/Headers/"
  printf 'framework module CMlxrt {\n  header "mlxrt.h"\n  export *\n}\n' >"$framework/Modules/module.modulemap"
  cat >"$framework/Info.plist" <<PLIST
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict>
  <key>CFBundleExecutable</key><string>CMlxrt</string>
  <key>CFBundleIdentifier</key><string>org.mlxrt.CMlxrt</string>
  <key>CFBundleName</key><string>CMlxrt</string>
  <key>CFBundlePackageType</key><string>FMWK</string>
  <key>CFBundleShortVersionString</key><string>$version</string>
  <key>CFBundleVersion</key><string>$version</string>
  <key>CFBundleSupportedPlatforms</key><array><string>$platform</string></array>
  <key>MinimumOSVersion</key><string>$least</string>
</dict></plist>
PLIST
  codesign --force --sign - "$framework"
  set -- "$@" -framework "$framework"
done
xcodebuild -create-xcframework "$@" -output "$out/CMlxrt.xcframework"
(cd "$out" && zip -qry "CMlxrt-$version.xcframework.zip" CMlxrt.xcframework && shasum -a 256 "CMlxrt-$version.xcframework.zip" \
  >"CMlxrt-$version.xcframework.zip.sha256")
