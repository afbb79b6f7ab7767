// swift-tools-version: 6.0
import Foundation
import PackageDescription

// Apps take the library as CMlxrt.xcframework in this folder, which scripts/xcframework.sh makes. Without it, developers
// take the installed one, which pkg-config finds (mlxrt.pc).
let framework = "CMlxrt.xcframework"
let isBinary = FileManager.default.fileExists(atPath: "\(Context.packageDirectory)/\(framework)")

let package = Package(
  name: "mlxrt",
  platforms: [.macOS(.v14), .iOS(.v17)],
  products: [
    .library(name: "Mlxrt", targets: ["Mlxrt"]),
    // The C functions as they are.
    .library(name: "CMlxrt", targets: ["CMlxrt"]),
    .executable(name: "mlxrt-chat", targets: ["Chat"]),
  ],
  targets: [
    isBinary
      ? .binaryTarget(name: "CMlxrt", path: framework)
      : .systemLibrary(name: "CMlxrt", pkgConfig: "mlxrt"),
    .target(name: "Mlxrt", dependencies: ["CMlxrt"]),
    .executableTarget(name: "Chat", dependencies: ["Mlxrt"], path: "Samples/Chat"),
    .executableTarget(name: "Benchmark", dependencies: ["Mlxrt", "CMlxrt"], path: "Benchmark"),
    .testTarget(name: "MlxrtTests", dependencies: ["Mlxrt", "CMlxrt"]),
  ],
  swiftLanguageModes: [.v6]
)
