#!/bin/bash
# xcframework.sh PLATFORM=PREFIX...: makes bindings/swift/CMlxrt.xcframework of installed libraries, for apps.
# NEVER RUN: it needs macOS with Xcode, which this project has not had yet.
#
#   scripts/xcframework.sh macos=build/macos ios=build/ios ios-simulator=build/ios-simulator
#
# PREFIX is what `make install` made for that platform: include/mlxrt.h, lib/libmlxrt.dylib, lib/mlx.metallib. Each becomes
# CMlxrt.framework, a dynamic one: a static library would let its MLX clash with that of mlx-swift in the same app, and
# App Store apps may hold no bare dylibs. mlx.metallib lies beside the binary, where the library looks for it.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(uname -s)" = Darwin ] || { echo "xcframework.sh: needs macOS with Xcode" >&2; exit 1; }
[ $# -gt 0 ] || { echo "usage: xcframework.sh PLATFORM=PREFIX... (macos, ios, ios-simulator)" >&2; exit 1; }
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
arguments=()

for given in "$@"; do
  platform=${given%%=*} prefix=${given#*=}
  case $platform in
    macos) sdk=MacOSX minimum=14.0 ;;
    ios) sdk=iPhoneOS minimum=17.0 ;;
    ios-simulator) sdk=iPhoneSimulator minimum=17.0 ;;
    *) echo "xcframework.sh: no platform $platform" >&2; exit 1 ;;
  esac
  for file in include/mlxrt.h lib/libmlxrt.dylib lib/mlx.metallib; do
    [ -e "$prefix/$file" ] || { echo "xcframework.sh: $prefix/$file is missing" >&2; exit 1; }
  done
  framework=$work/$platform/CMlxrt.framework
  # On macOS a framework has versions, elsewhere it is flat.
  if [ "$platform" = macos ]; then
    content=$framework/Versions/A
    id=@rpath/CMlxrt.framework/Versions/A/CMlxrt plist=$content/Resources
  else
    content=$framework
    id=@rpath/CMlxrt.framework/CMlxrt plist=$content
  fi
  mkdir -p "$content/Headers" "$content/Modules" "$plist"
  cp "$prefix/include/mlxrt.h" "$content/Headers/"
  cp "$prefix/lib/libmlxrt.dylib" "$content/CMlxrt"
  cp "$prefix/lib/mlx.metallib" "$content/"
  install_name_tool -id "$id" "$content/CMlxrt"
  # The same module name as the system library's, so that sources need not know which one they got.
  printf 'framework module CMlxrt {\n  header "mlxrt.h"\n  export *\n}\n' >"$content/Modules/module.modulemap"
  cat >"$plist/Info.plist" <<END
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict>
  <key>CFBundleIdentifier</key><string>dev.mlxrt.CMlxrt</string>
  <key>CFBundleName</key><string>CMlxrt</string>
  <key>CFBundleExecutable</key><string>CMlxrt</string>
  <key>CFBundlePackageType</key><string>FMWK</string>
  <key>CFBundleShortVersionString</key><string>$version</string>
  <key>CFBundleVersion</key><string>$version</string>
  <key>CFBundleSupportedPlatforms</key><array><string>$sdk</string></array>
  <key>MinimumOSVersion</key><string>$minimum</string>
</dict></plist>
END
  if [ "$platform" = macos ]; then
    ln -s A "$framework/Versions/Current"
    for entry in CMlxrt Headers Modules Resources; do ln -s "Versions/Current/$entry" "$framework/$entry"; done
  fi
  codesign --force --sign "${SIGN:--}" "$framework"
  arguments+=(-framework "$framework")
done

rm -rf bindings/swift/CMlxrt.xcframework
xcodebuild -create-xcframework "${arguments[@]}" -output bindings/swift/CMlxrt.xcframework
