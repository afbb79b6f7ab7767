import Foundation
import Mlxrt
import XCTest

/// The tests read the fixtures of the tree that they lie in.
enum Fixture {
  static let tree = URL(fileURLWithPath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent()

  static func path(_ name: String) -> String { tree.appendingPathComponent("tests/fixtures/\(name)").path }

  static func model(_ name: String = "qwen3-f32") async throws -> Model {
    try await Model.load(path("models/\(name)"))
  }

  /// The same, whose context is not full before a test is over, however fast the machine is: with ``greedy(_:)`` and
  /// ``endless`` tokens it goes on until it is ended.
  static func endlessModel() async throws -> Model {
    let folder = try Fixture.folder(), from = path("models/qwen3-f32")
    for name in try FileManager.default.contentsOfDirectory(atPath: from) {
      try FileManager.default.copyItem(atPath: from + "/" + name, toPath: folder + "/" + name)
    }
    let config = try String(contentsOfFile: folder + "/config.json", encoding: .utf8)
    try config.replacingOccurrences(of: "\"max_position_embeddings\": 2048", with: "\"max_position_embeddings\": 1048576")
      .write(toFile: folder + "/config.json", atomically: true, encoding: .utf8)
    let model = try await Model.load(folder)
    XCTAssertEqual(try model.info().context, endless)
    try FileManager.default.removeItem(atPath: folder)
    return model
  }

  /// The demo model, which can talk; `MLXRT_DEMO_MODEL` names its folder where it is not in the tree.
  static func demo() async throws -> Model {
    let path = ProcessInfo.processInfo.environment["MLXRT_DEMO_MODEL"]
      ?? tree.appendingPathComponent("demo/model").path
    guard FileManager.default.fileExists(atPath: path + "/config.json") else {
      throw XCTSkip("the demo model is not in \(path)")
    }
    return try await Model.load(path)
  }

  static func folder() throws -> String {
    let url = FileManager.default.temporaryDirectory.appendingPathComponent("mlxrt-swift-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
    return url.path
  }
}

/// More tokens than a test waits for.
let endless = 1 << 20

/// Greedy, so that two runs can be compared, and never ended by the model.
func greedy(_ maxTokens: Int) -> GenerateOptions {
  GenerateOptions(maxTokens: maxTokens, temperature: 0, flags: .ignoreEOS)
}

/// Did this fail, with this code, and name this?
func assertFails<T>(
  _ code: MlxrtError.Code, _ words: String = "", file: StaticString = #filePath, line: UInt = #line,
  _ body: () async throws -> T
) async {
  do {
    _ = try await body()
    XCTFail("nothing was thrown", file: file, line: line)
  } catch let error as MlxrtError {
    XCTAssertEqual(error.code, code, "\(error)", file: file, line: line)
    XCTAssertTrue(words.isEmpty || error.message.contains(words), "\(error)", file: file, line: line)
  } catch {
    XCTFail("\(error)", file: file, line: line)
  }
}

/// Waits until `condition` holds; a test that waits for ever tells nothing.
func eventually(
  _ what: String, seconds: Double = 30, file: StaticString = #filePath, line: UInt = #line,
  _ condition: () throws -> Bool
) async throws {
  let end = ContinuousClock.now + .seconds(seconds)
  while try !condition() {
    if ContinuousClock.now > end { return XCTFail("never: \(what)", file: file, line: line) }
    try? await Task.sleep(for: .milliseconds(2))
  }
}

/// Counts across tasks.
final class Counter: @unchecked Sendable {
  private let lock = NSLock()
  private var count = 0
  var value: Int { lock.withLock { count } }
  func add(_ more: Int = 1) { lock.withLock { count += more } }
}

/// What a callback of a test throws.
struct Whatever: Error, Equatable { var number = 7 }
