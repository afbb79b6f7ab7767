import CMlxrt
import Mlxrt
import XCTest

final class ErrorTests: XCTestCase {
  func testEveryCodeOfTheHeaderHasACase() throws {
    // The header itself is read, so that a code that comes in is not forgotten here.
    let header = try XCTUnwrap(
      String(contentsOf: Fixture.tree.appendingPathComponent("include/mlxrt.h"), encoding: .utf8))
    var numbers: [Int32: String] = [:]
    for line in header.split(separator: "\n") where line.hasPrefix("#define MLXRT_E_") {
      let words = line.split(separator: " ")
      numbers[try XCTUnwrap(Int32(words[2]))] = String(words[1].dropFirst("MLXRT_E_".count))
    }
    XCTAssertGreaterThanOrEqual(numbers.count, 19)
    for (number, name) in numbers {
      let code = MlxrtError.Code(rawValue: number)
      if case .unknown = code { XCTFail("\(name) has no case") }
      XCTAssertEqual(code.rawValue, number)
      XCTAssertEqual(code.description, name)
    }
    XCTAssertEqual(Set(numbers.keys.map { MlxrtError.Code(rawValue: $0) }).count, numbers.count)
    XCTAssertEqual(MlxrtError.Code(rawValue: 4711), .unknown(4711))
    XCTAssertEqual(MlxrtError.Code.unknown(4711).rawValue, 4711)
    XCTAssertNotEqual(MlxrtError.Code.unknown(4711), .unknown(4712))
    XCTAssertEqual("\(MlxrtError.Code.unknown(4711))", "UNKNOWN(4711)")
    XCTAssertEqual("\(MlxrtError(code: .io, message: "m"))", "IO: m")
  }

  func testErrorsThatTheLibraryGives() async throws {
    await assertFails(.notFound, "/nowhere") { try await Model.load("/nowhere") }
    await assertFails(.notFound, "/nowhere") { try await Model.inspect("/nowhere") }
    await assertFails(.invalidArgument, "path") { try await Model.load("a\0b") }
    let folder = try Fixture.folder()
    try "{}".write(toFile: folder + "/config.json", atomically: true, encoding: .utf8)
    await assertFails(.badModel, "model_type") { try await Model.load(folder) }
    try #"{"model_type": "abacus"}"#.write(toFile: folder + "/config.json", atomically: true, encoding: .utf8)
    await assertFails(.unsupported, "abacus") { try await Model.load(folder) }

    let model = try await Fixture.model(), other = try await Fixture.model()
    let session = try Session(model, options: .init(context: 32))
    await assertFails(.contextFull) { try await session.respond(to: .tokens(Array(repeating: 5, count: 40))) }
    await assertFails(.invalidArgument, "99999") { try model.detokenize([99999]) }
    await assertFails(.invalidArgument, "messages[0]") {
      try await session.respond(to: .json(messages: #"[{"role":"user"}]"#))
    }
    await assertFails(.invalidArgument) { try await session.respond(to: .json(messages: "[")) }
    await assertFails(.notFound) { try session.message() }
    let foreign = try await Adapter.create(for: other)
    await assertFails(.incompatible) { try session.apply([foreign]) }
    await assertFails(.incompatible) {
      let adapter = try await Adapter.load(Fixture.path("adapters/mlx-lora-llama"), for: model)
      try session.apply([adapter])
    }
    await assertFails(.invalidArgument, "suspend") { try Runtime.resume() }
    await assertFails(.invalidArgument, "kv") { try Session(model, options: .init(kvLimit: 0)) }
    await assertFails(.notFound, "draft_path") {
      try await Model.load(Fixture.path("models/qwen3-f32"), options: .init(draftPath: "/nowhere"))
    }
    try FileManager.default.removeItem(atPath: folder)
  }

  func testMemoryBusySuspendedAndTimeout() async throws {
    let model = try await Fixture.endlessModel()
    let session = try Session(model)
    try Runtime.setMemoryLimits(memory: .bytes(0))
    await assertFails(.outOfMemory) { try await Fixture.model() }
    try Runtime.setMemoryLimits(memory: .unlimited)

    try await Runtime.suspend()
    await assertFails(.suspended) { try await session.respond(to: .text("Hello"), options: greedy(3)) }
    try Runtime.resume()

    let request = try await session.submit(.text("Hello"), options: greedy(endless))
    let busy: Result<GenerationResult, any Error> = await onThread {
      try session.generateBlocking(.text("Hello")) { _ in .continue }
    }
    await assertFails(.busy) { try busy.get() }
    request.cancel()
    let result = try await request.result()
    XCTAssertEqual(result.stop, .cancelled)

    // A time that is over is a result of a request, and an error of a load.
    let late = try await session.respond(to: .text("Hello"), options: GenerateOptions(timeout: .nanoseconds(1)))
    XCTAssertEqual(late.result.stop, .timeout)
    await assertFails(.timeout) {
      try await Model.load(Fixture.path("models/qwen3-f32"), options: .init(timeout: .milliseconds(1))) { _ in
        Thread.sleep(forTimeInterval: 0.02)
      }
    }
  }

  func testUseAfterCloseIsAnError() async throws {
    let model = try await Fixture.endlessModel()
    let adapter = try await Adapter.create(for: model)
    let session = try Session(model)
    let running = try await session.submit(.text("Hello"), options: greedy(endless))
    await session.close()
    await session.close()
    let end = try await running.result()
    XCTAssertEqual(end.stop, .cancelled)
    await assertFails(.invalidHandle, "session") { try session.state() }
    await assertFails(.invalidHandle, "session") { try session.tokens() }
    await assertFails(.invalidHandle, "session") { try session.message() }
    await assertFails(.invalidHandle, "session") { try session.apply([]) }
    await assertFails(.invalidHandle, "session") { try await session.respond(to: .text("x")) }
    await assertFails(.invalidHandle, "session") { for try await _ in session.generate(.text("x")) {} }
    let blocking: Result<GenerationResult, any Error> = await onThread {
      try session.generateBlocking(.text("x")) { _ in .continue }
    }
    await assertFails(.invalidHandle, "session") { try blocking.get() }
    session.cancel()

    await adapter.close()
    await assertFails(.invalidHandle, "adapter") { try adapter.info() }
    await assertFails(.invalidHandle, "adapter") { try await adapter.tensor("x") }
    await assertFails(.invalidHandle, "adapter") { try await adapter.setTensor("x", to: Tensor(shape: [], values: [])) }
    await assertFails(.invalidHandle, "adapter") { try await adapter.save(to: "/nowhere") }
    await assertFails(.invalidHandle, "adapter") { try await adapter.train(on: .lines("")) }
    let second = try Session(model)
    await assertFails(.invalidHandle, "adapter") { try second.apply([adapter]) }

    await model.close()
    await assertFails(.invalidHandle, "model") { try model.info() }
    await assertFails(.invalidHandle, "model") { try await model.tokenize("x") }
    await assertFails(.invalidHandle, "model") { try model.detokenize([1]) }
    await assertFails(.invalidHandle, "model") { try model.render([.user("x")]) }
    await assertFails(.invalidHandle, "model") { try model.countTokens(.text("x")) }
    await assertFails(.invalidHandle, "model") { try model.promptTokens(.text("x")) }
    await assertFails(.invalidHandle, "model") { try model.metrics() }
    await assertFails(.invalidHandle, "model") { try Session(model) }
    await assertFails(.invalidHandle, "model") { try await Adapter.create(for: model) }
    // What still needs the model keeps what it needs.
    let answer = try await second.respond(to: .text("Hello"), options: greedy(3))
    XCTAssertEqual(answer.tokens.count, 3)
  }

  func testForcedShutdownEndsWhatRuns() async throws {
    let model = try await Fixture.endlessModel()
    let session = try Session(model)
    let request = try await session.submit(.text("Hello"), options: greedy(endless))
    await assertFails(.busy) { try await Runtime.shutdown(timeout: .zero) }
    try await Runtime.shutdown(force: true)
    let result = try await request.result()
    XCTAssertEqual(result.stop, .cancelled)
    await assertFails(.cancelled) { try await session.respond(to: .text("Hello")) }
    // A new engine for whoever comes now.
    try await Runtime.start()
    let again = try await Session(Fixture.model()).respond(to: .text("Hello"), options: greedy(2))
    XCTAssertEqual(again.tokens.count, 2)
    try? await Runtime.shutdown()
  }
}

/// Runs what must not run in a task on a thread of its own.
func onThread<T: Sendable>(_ work: @escaping @Sendable () throws -> T) async -> Result<T, any Error> {
  await withCheckedContinuation { continuation in
    Thread.detachNewThread { continuation.resume(returning: Result { try work() }) }
  }
}
