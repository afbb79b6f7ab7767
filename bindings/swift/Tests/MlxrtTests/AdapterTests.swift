import Foundation
import Mlxrt
import XCTest

final class AdapterTests: XCTestCase {
  func testAdaptersAreAppliedAndTakenOff() async throws {
    let model = try await Fixture.model("qwen3-4bit")
    let adapter = try await Adapter.load(Fixture.path("adapters/mlx-lora-qwen3-4bit"), for: model)
    let info = try adapter.info()
    XCTAssertEqual(info.kind, "lora")
    XCTAssertFalse(info.tensors.isEmpty)
    XCTAssertNotNil(info.json["rank"]?.intValue)
    let session = try Session(model)
    func ask() async throws -> [Int32] {
      try await Session(model).respond(to: .text("Hello"), options: greedy(20)).tokens
    }
    let plain = try await ask()
    func with(_ adapters: [Adapter], _ scales: [Float]? = nil) async throws -> [Int32] {
      let session = try Session(model)
      try session.apply(adapters, scales: scales)
      XCTAssertEqual(try session.state().adapters, adapters.count)
      return try await session.respond(to: .text("Hello"), options: greedy(20)).tokens
    }
    let adapted = try await with([adapter])
    XCTAssertNotEqual(adapted, plain)
    let none = try await with([])
    XCTAssertEqual(none, plain)
    let zero = try await with([adapter], [0])
    XCTAssertEqual(zero, plain)
    // A new one changes nothing, also beside another.
    let fresh = try await Adapter.create(for: model, options: .init(rank: 4, scale: 2, keys: ["q_proj", "mlp.up_proj"]))
    let both = try await with([adapter, fresh], [1, 0.5])
    XCTAssertEqual(both, adapted)
    await assertFails(.invalidArgument, "scales") { try session.apply([adapter], scales: [1, 2]) }
    await assertFails(.invalidArgument) { try session.apply([adapter, adapter]) }
    await assertFails(.invalidArgument) { try session.apply([adapter], scales: [.nan]) }
    await assertFails(.invalidArgument, "rank") { try await Adapter.create(for: model, options: .init(rank: -1)) }
    await assertFails(.invalidArgument, "nothing_proj") {
      try await Adapter.create(for: model, options: .init(keys: ["nothing_proj"]))
    }
    await assertFails(.notFound) { try await Adapter.load("/nowhere", for: model) }
  }

  func testTensorsAreReadAndChanged() async throws {
    let model = try await Fixture.model()
    let adapter = try await Adapter.create(for: model, options: .init(seed: 5))
    let described = try XCTUnwrap(try adapter.info().tensors.first { $0.name.hasSuffix("lora_b") })
    var tensor = try await adapter.tensor(described.name)
    XCTAssertEqual(tensor.shape, described.shape)
    XCTAssertEqual(tensor.values.count, tensor.shape.reduce(1, *))
    XCTAssertTrue(tensor.values.allSatisfy { $0 == 0 })
    for index in tensor.values.indices { tensor.values[index] = Float(index % 7) - 3 }
    try await adapter.setTensor(described.name, to: tensor)
    let again = try await adapter.tensor(described.name)
    XCTAssertEqual(again, tensor)
    let session = try Session(model)
    let plain = try await Session(model).respond(to: .text("Hello"), options: greedy(20)).tokens
    try session.apply([adapter])
    let changed = try await session.respond(to: .text("Hello"), options: greedy(20)).tokens
    XCTAssertNotEqual(changed, plain)
    let good = tensor
    await assertFails(.notFound, "nothing") { try await adapter.tensor("nothing") }
    await assertFails(.invalidArgument) {
      try await adapter.setTensor(described.name, to: Tensor(shape: [1], values: [1]))
    }
    await assertFails(.invalidArgument) {
      try await adapter.setTensor(described.name, to: Tensor(shape: good.shape, values: [1]))
    }
    await assertFails(.invalidArgument) {
      try await adapter.setTensor(described.name, to: Tensor(shape: [-1], values: []))
    }
    await assertFails(.invalidArgument) {
      try await adapter.setTensor(described.name, to: Tensor(shape: Array(repeating: 1, count: 50), values: [1]))
    }
    var infinite = good
    infinite.values[0] = .infinity
    let bad = infinite
    await assertFails(.invalidArgument) { try await adapter.setTensor(described.name, to: bad) }
  }

  func testAnAdapterLearnsAndIsSaved() async throws {
    let model = try await Fixture.model()
    let folder = try Fixture.folder()
    let adapter = try await Adapter.create(for: model, options: .init(kind: .dora, scale: 2))
    let heard = Heard()
    var options = short
    options.validation = .lines(lines)
    options.schedule = .cosine
    options.masksPrompt = true
    options.checkpoints = true
    options.savePath = folder + "/trained"
    try await adapter.train(on: .lines(lines), options: options) { event in
      heard.add(event)
      return .continue
    }
    let events = heard.events
    XCTAssertEqual(events.map(\.step), [1, 4, 8, 12])
    XCTAssertEqual(events.last?.steps, 12)
    XCTAssertLessThan(try XCTUnwrap(events.last?.loss), try XCTUnwrap(events.first?.loss))
    XCTAssertNotNil(events.first?.validationLoss)
    XCTAssertNil(events[1].validationLoss)
    XCTAssertGreaterThan(try XCTUnwrap(events.last?.trainedTokens), 0)

    try await adapter.save(to: folder + "/saved")
    let plain = try await Session(model).respond(to: .text("Hello"), options: greedy(20)).tokens
    var answers: [[Int32]] = []
    for path in ["/saved", "/trained"] {
      let loaded = try await Adapter.load(folder + path, for: model, timeout: .seconds(60))
      XCTAssertEqual(try loaded.info().kind, "dora")
      let session = try Session(model)
      try session.apply([loaded])
      answers.append(try await session.respond(to: .text("Hello"), options: greedy(20)).tokens)
    }
    XCTAssertEqual(answers[0], answers[1])
    XCTAssertNotEqual(answers[0], plain)

    // From a file, and stopped.
    let path = folder + "/train.jsonl"
    try lines.write(toFile: path, atomically: true, encoding: .utf8)
    let stopped = Heard()
    var file = short
    file.optimizer = .sgd
    try await adapter.train(on: .file(path), options: file) { event in
      stopped.add(event)
      return .stop
    }
    XCTAssertEqual(stopped.events.count, 1)
    let mixed = options
    await assertFails(.invalidArgument, "validation") { try await adapter.train(on: .file(path), options: mixed) }
    await assertFails(.notFound) { try await adapter.train(on: .file(folder + "/none")) }
    await assertFails(.invalidArgument) { try await adapter.train(on: .lines("no JSON")) }
    await assertFails(.io) { try await adapter.save(to: path + "/below/a/file") }
    try FileManager.default.removeItem(atPath: folder)
  }

  func testAModelIsSavedWithAdapters() async throws {
    let folder = try Fixture.folder()
    let model = try await Fixture.model("qwen3-4bit")
    let loaded = try await Adapter.load(Fixture.path("adapters/mlx-lora-qwen3-4bit"), for: model)
    let made = try await Adapter.create(for: model, options: .init(scale: 2))
    let name = "model.layers.0.self_attn.v_proj.lora_b"
    var tensor = try await made.tensor(name)
    for index in tensor.values.indices { tensor.values[index] = Float(index % 7) - 3 }
    try await made.setTensor(name, to: tensor)
    // What the saved model answers, and whether its weights are as many bytes as before.
    func saved(_ adapters: [Adapter] = [], _ scales: [Float]? = nil) async throws -> [Int32] {
      try await model.save(to: folder + "/saved", adapters: adapters, scales: scales)
      let saved = try await Model.load(folder + "/saved")
      XCTAssertEqual(try saved.info().weightBytes, try model.info().weightBytes)
      return try await Session(saved).respond(to: .text("Hello"), options: greedy(20)).tokens
    }
    let plain = try await Session(model).respond(to: .text("Hello"), options: greedy(20)).tokens
    let one = try await saved([loaded])
    XCTAssertNotEqual(one, plain)
    let both = try await saved([loaded, made], [1, 0.5])
    XCTAssertNotEqual(both, one)
    // A scale of 0 leaves the weights as they are, and none replaces what was there.
    let first = try await saved([loaded, made], [1, 0])
    XCTAssertEqual(first, one)
    let none = try await saved()
    XCTAssertEqual(none, plain)

    let bytes = Counter()
    try await model.save(to: folder + "/heard", adapters: [loaded], timeout: .seconds(60)) { progress in
      if progress.done == progress.total { bytes.add(Int(progress.total)) }
    }
    XCTAssertGreaterThan(bytes.value, 0)
    do {
      try await model.save(to: folder + "/none") { _ in throw Whatever() }
      XCTFail("nothing was thrown")
    } catch let error as Whatever {
      XCTAssertEqual(error, Whatever())
    }
    await assertFails(.invalidArgument, "scales") { try await model.save(to: folder + "/none", scales: [1]) }
    await assertFails(.invalidArgument, "adapters[1]") {
      try await model.save(to: folder + "/none", adapters: [made, made])
    }
    await assertFails(.invalidArgument, "path") { try await model.save(to: "") }
    let other = try await Fixture.model()
    await assertFails(.incompatible, "adapters[0]") { try await other.save(to: folder + "/none", adapters: [made]) }
    await made.close()
    await assertFails(.invalidHandle, "adapter") { try await model.save(to: folder + "/none", adapters: [made]) }
    // The call is under way, and waits in its first progress until the task is cancelled.
    let (heard, cancelled) = (Counter(), DispatchSemaphore(value: 0))
    let task = Task {
      try await model.save(to: folder + "/none") { _ in
        heard.add()
        cancelled.wait()
      }
    }
    try await eventually("it saves") { heard.value > 0 }
    task.cancel()
    cancelled.signal()
    do {
      try await task.value
      XCTFail("nothing was thrown")
    } catch is CancellationError {}
    XCTAssertFalse(FileManager.default.fileExists(atPath: folder + "/none"))
    try FileManager.default.removeItem(atPath: folder)
  }

  func testACancelledTaskEndsItsTraining() async throws {
    let model = try await Fixture.model()
    let adapter = try await Adapter.create(for: model)
    var options = short
    options.steps = 1_000_000
    options.reportEvery = 1
    let long = options
    let steps = Counter()
    let task = Task {
      try await adapter.train(on: .lines(lines), options: long) { _ in
        steps.add()
        return .continue
      }
    }
    try await eventually("it trains") { steps.value > 2 }
    task.cancel()
    do {
      try await task.value
      XCTFail("nothing was thrown")
    } catch is CancellationError {}
    XCTAssertFalse(try adapter.info().tensors.isEmpty)
  }
}

private final class Heard: @unchecked Sendable {
  private let lock = NSLock()
  private var list: [Adapter.TrainingEvent] = []
  var events: [Adapter.TrainingEvent] { lock.withLock { list } }
  func add(_ event: Adapter.TrainingEvent) { lock.withLock { list.append(event) } }
}
