import Mlxrt
import XCTest

final class ConcurrencyTests: XCTestCase {
  // MARK: Cancellation

  func testATaskThatIsCancelledBefore() async throws {
    let model = try await Fixture.model()
    let session = try Session(model)
    let task = Task {
      withUnsafeCurrentTask { $0?.cancel() }
      var events = 0
      for try await _ in session.generate(.text("Hello"), options: greedy(100)) { events += 1 }
      XCTAssertEqual(events, 0)
      do {
        _ = try await session.respond(to: .text("Hello"), options: greedy(100))
        XCTFail("nothing was thrown")
      } catch is CancellationError {}
      do {
        _ = try await Model.load(Fixture.path("models/qwen3-f32"))
        XCTFail("nothing was thrown")
      } catch is CancellationError {}
    }
    try await task.value
    // Nothing was asked of the library.
    XCTAssertEqual(try model.metrics().requestsStarted, 0)
    XCTAssertEqual(try session.tokens(), [])
  }

  func testATaskThatIsCancelledDuringPrefill() async throws {
    // The prompt takes long to take in; its progress says that this has begun.
    let model = try await Fixture.endlessModel()
    let session = try Session(model)
    let tokens = Array(repeating: Int32(30), count: 500_000)
    var options = greedy(10)
    options.progressTokens = 1
    let asked = options
    let begun = Counter()
    let task = Task {
      var texts = 0
      for try await event in session.generate(.tokens(tokens), options: asked) {
        switch event {
        case .progress: begun.add()
        default: texts += 1
        }
      }
      return texts
    }
    try await eventually("the prompt is being taken in") { try begun.value > 0 || model.metrics().requestsRunning == 1 }
    let start = ContinuousClock.now
    task.cancel()
    let texts = try await task.value
    XCTAssertEqual(texts, 0)
    XCTAssertLessThan(ContinuousClock.now - start, .seconds(2), "the task waited for the prompt")
    try await eventually("the request has ended", seconds: 60) { try !session.state().isBusy }
    try await eventually("it is counted as cancelled") { try model.metrics().requestsCancelled == 1 }
    // It stayed as it was, and is usable.
    XCTAssertEqual(try session.tokens(), [])
    let answer = try await session.respond(to: .text("Hello"), options: greedy(1))
    XCTAssertEqual(answer.tokens.count, 1)
  }

  func testATaskThatIsCancelledMidStream() async throws {
    let model = try await Fixture.endlessModel()
    let session = try Session(model)
    let seen = Counter()
    let task = Task {
      var finished = false
      for try await event in session.generate(.text("Hello"), options: greedy(endless)) {
        if case .text = event { seen.add() }
        if case .finished = event { finished = true }
      }
      return (Task.isCancelled, finished)
    }
    try await eventually("ten tokens") { seen.value >= 10 }
    task.cancel()
    let (wasCancelled, finished) = try await task.value
    XCTAssertTrue(wasCancelled)
    XCTAssertFalse(finished)
    try await eventually("the request has ended") { try !session.state().isBusy }
    try await eventually("it is counted as cancelled") { try model.metrics().requestsCancelled == 1 }
    // The session goes on from what was made.
    let held = try session.tokens().count
    XCTAssertGreaterThanOrEqual(held, 10)
    XCTAssertLessThan(held, endless)
    let more = try await session.respond(to: .text(" and"), options: greedy(5))
    XCTAssertGreaterThanOrEqual(more.result.promptTokens, UInt64(held))
  }

  func testRespondThrowsWhenItsTaskIsCancelled() async throws {
    let model = try await Fixture.endlessModel()
    let session = try Session(model)
    let task = Task { try await session.respond(to: .text("Hello"), options: greedy(endless)) }
    try await eventually("it runs") { try session.state().isBusy }
    task.cancel()
    do {
      _ = try await task.value
      XCTFail("nothing was thrown")
    } catch is CancellationError {}
    try await eventually("the request has ended") { try !session.state().isBusy }
  }

  func testLeavingTheLoopCancels() async throws {
    let model = try await Fixture.endlessModel()
    let session = try Session(model)
    for try await event in session.generate(.text("Hello"), options: greedy(endless)) {
      if case .text = event { break }
    }
    try await eventually("the request has ended") { try model.metrics().requestsCancelled == 1 }
    try await eventually("the session is free") { try !session.state().isBusy }
  }

  func testRequestsThatAreCancelledByHandTellTheirEnd() async throws {
    let model = try await Fixture.endlessModel()
    let session = try Session(model)
    let first = try await session.submit(.text("One"), options: greedy(endless))
    let second = try await session.submit(.text("Two"), options: greedy(10))
    let third = try await session.submit(.text("Three"), options: greedy(10))
    second.cancel()
    var texts = 0
    var end: GenerationResult?
    for try await event in first.events {
      if case .text = event { texts += 1 }
      if case .finished(let result) = event { end = result }
      if texts == 5 { first.cancel() }
    }
    XCTAssertEqual(end?.stop, .cancelled)
    let results = (try await second.result(), try await third.result(), try await third.result())
    XCTAssertEqual(results.0.stop, .cancelled)
    XCTAssertEqual(results.0.generatedTokens, 0)
    XCTAssertEqual(results.1.stop, .length)
    XCTAssertEqual(results.1, results.2)
    third.cancel()
    // What was read to its end stays at its end.
    for try await event in first.events { XCTFail("\(event)") }
    for try await event in third.events {
      guard case .finished = event else { return XCTFail("\(event)") }
    }
    let running = try await session.submit(.text("Four"), options: greedy(endless))
    // One that has begun: the session's cancel leaves those that wait alone.
    for try await event in running.events {
      if case .text = event { break }
    }
    session.cancel()
    let result = try await running.result()
    XCTAssertEqual(result.stop, .cancelled)
  }

  // MARK: Callbacks

  func testWhatACallbackThrowsComesOut() async throws {
    let path = Fixture.path("models/qwen3-f32")
    do {
      _ = try await Model.load(path) { _ in throw Whatever(number: 1) }
      XCTFail("nothing was thrown")
    } catch let error as Whatever { XCTAssertEqual(error.number, 1) }

    let model = try await Model.load(path)
    let session = try Session(model)
    let blocking = await onThread {
      try session.generateBlocking(.text("Hello"), options: greedy(500)) { _ in throw Whatever(number: 2) }
    }
    XCTAssertThrowsError(try blocking.get()) { XCTAssertEqual($0 as? Whatever, Whatever(number: 2)) }
    let stopped = await onThread {
      try session.generateBlocking(.text("Hello"), options: greedy(500)) { _ in .stop }
    }
    XCTAssertEqual(try stopped.get().stop, .callback)
    let nested = await onThread {
      try session.generateBlocking(.text("Hello"), options: greedy(5)) { _ in
        _ = try session.generateBlocking(.text("Hello")) { _ in .continue }
        return .continue
      }
    }
    await assertFails(.reentrant) { try nested.get() }

    let adapter = try await Adapter.create(for: model)
    do {
      try await adapter.train(on: .lines(lines), options: short) { _ in throw Whatever(number: 3) }
      XCTFail("nothing was thrown")
    } catch let error as Whatever { XCTAssertEqual(error.number, 3) }
    do {
      let folder = Fixture.path("adapters/mlx-dora-qwen3")
      _ = try await Adapter.load(folder, for: model) { _ in throw Whatever(number: 4) }
      XCTFail("nothing was thrown")
    } catch let error as Whatever { XCTAssertEqual(error.number, 4) }
    let answer = try await session.respond(to: .text("Hello"), options: greedy(3))
    XCTAssertEqual(answer.tokens.count, 3)
  }

  func testALoadTellsHowFarItIsAndCanBeCancelled() async throws {
    let path = Fixture.path("models/qwen3-f32")
    let calls = Counter()
    let model = try await Model.load(path) { progress in
      XCTAssertLessThanOrEqual(progress.done, progress.total)
      XCTAssertLessThanOrEqual(progress.fraction, 1)
      calls.add()
    }
    XCTAssertGreaterThan(calls.value, 0)
    await model.close()

    let begun = DispatchSemaphore(value: 0), go = DispatchSemaphore(value: 0)
    let task = Task {
      try await Model.load(path) { _ in
        begun.signal()
        go.wait()
      }
    }
    await onThreadWait(begun)
    task.cancel()
    // It goes on inside the callback, and ends at the next one.
    for _ in 0..<1000 { go.signal() }
    do {
      _ = try await task.value
      // The file may have been read with that one call.
    } catch is CancellationError {}
  }

  // MARK: No thread of the pool waits

  func testManySessionsAtOnce() async throws {
    let model = try await Fixture.model()
    let first = try Session(model)
    let wanted = try await first.respond(to: .text("Hello"), options: greedy(30)).tokens
    let held = try first.state().kvBytes
    let tasks = 8 * ProcessInfo.processInfo.activeProcessorCount + 8
    let answers = try await withThrowingTaskGroup(of: [Int32].self) { group in
      for _ in 0..<tasks {
        group.addTask {
          var tokens: [Int32] = []
          for try await event in try Session(model).generate(.text("Hello"), options: greedy(30)) {
            if case .text(let piece) = event { tokens += piece.tokens }
          }
          return tokens
        }
      }
      return try await group.reduce(into: [[Int32]]()) { $0.append($1) }
    }
    XCTAssertEqual(answers.count, tasks)
    for answer in answers { XCTAssertEqual(answer, wanted) }
    // What they have computed this one has, too, so nothing of it is kept.
    try await eventually("all sessions are freed") { try Runtime.memory().kvBytes <= held }
    withExtendedLifetime(first) {}
  }

  /// While the engine stands still, many more tasks than there are cores wait for events, and loads stand in their
  /// callbacks. If one of them held a thread of the pool, other tasks would not run (on Apple's systems), or the pool would
  /// grow by a thread for each (on Linux).
  func testWaitingHoldsNoThreadOfThePool() async throws {
    let path = Fixture.path("models/qwen3-f32")
    let model = try await Fixture.model()
    let cores = ProcessInfo.processInfo.activeProcessorCount
    let many = 4 * cores + 20
    let begun = Counter()
    let streams = (0..<many).map { _ in
      Task {
        var tokens = 0
        for try await event in try Session(model).generate(.text("Hello"), options: greedy(600)) {
          if case .text(let piece) = event {
            if tokens == 0 { begun.add() }
            tokens += piece.tokens.count
          }
        }
        return tokens
      }
    }
    try await eventually("every stream has begun") { begun.value == many }
    let before = foreignThreads()
    let gate = DispatchSemaphore(value: 0)
    let held = Counter()
    let loads = (0..<many).map { _ in
      Task {
        do {
          let first = Counter()
          _ = try await Model.load(path) { _ in
            if first.value == 0 { held.add() }
            first.add()
            gate.wait()
            gate.signal()
          }
        } catch let error as MlxrtError where error.code == .suspended {}
      }
    }
    try await eventually("loads stand in their callbacks") { held.value == many }
    try await Runtime.suspend()
    let trims = (0..<many).map { _ in
      Task { do { try await Runtime.trimMemory() } catch let error as MlxrtError where error.code == .suspended {} }
    }
    let adapters = (0..<many).map { _ in
      Task { do { _ = try await Adapter.create(for: model) } catch let error as MlxrtError where error.code == .suspended {} }
    }
    try await Task.sleep(for: .milliseconds(300))
    XCTAssertLessThan(foreignThreads() - before, cores + 3, "threads of the pool wait")

    // Ordinary work in the pool, and more of it than there are cores: each waits for the others.
    let ran = Counter()
    let ordinary = (0..<many).map { _ in
      Task {
        for _ in 0..<20 { await Task.yield() }
        ran.add()
      }
    }
    try await eventually("ordinary tasks run", seconds: 20) { ran.value == many }
    for task in ordinary { await task.value }

    gate.signal()
    try Runtime.resume()
    for task in loads { try await task.value }
    for task in trims { try await task.value }
    for task in adapters { try await task.value }
    for task in streams {
      let tokens = try await task.value
      XCTAssertEqual(tokens, 600)
    }
  }

  // MARK: Ends

  func testLettingGoFrees() async throws {
    try await eventually("nothing is left of other tests") { try Runtime.memory().weightBytes == 0 }
    weak var weakSession: Session?
    weak var weakModel: Model?
    weak var weakAdapter: Adapter?
    weak var weakRequest: Request?
    do {
      let model = try await Fixture.endlessModel()
      let session = try Session(model)
      let adapter = try await Adapter.create(for: model)
      try session.apply([adapter])
      let request = try await session.submit(.text("Hello"), options: greedy(endless))
      weakSession = session
      weakModel = model
      weakAdapter = adapter
      weakRequest = request
      XCTAssertGreaterThan(try Runtime.memory().weightBytes, 0)
      withExtendedLifetime((model, session, adapter, request)) {}
    }
    // A thread that made one of them may hold it for another moment.
    try await eventually("all of them are gone") {
      weakSession == nil && weakModel == nil && weakAdapter == nil && weakRequest == nil
    }
    try await eventually("everything is freed") {
      let memory = try Runtime.memory()
      return memory.weightBytes == 0 && memory.kvBytes == 0
    }
    // Nobody is in the way of a shutdown.
    try await Runtime.start()
    try await Runtime.shutdown()
  }

  func testEverythingEndsWhileOthersUseIt() async throws {
    // Closing, cancelling and asking race; each gets an answer or an error, and nothing crashes.
    for round in 0..<20 {
      let model = try await Fixture.model()
      let session = try Session(model)
      await withTaskGroup(of: Void.self) { group in
        for task in 0..<8 {
          group.addTask {
            do {
              for try await _ in session.generate(.text("Hello"), options: greedy(20 + task)) {}
            } catch {
              XCTAssertEqual((error as? MlxrtError)?.code, .invalidHandle, "\(error)")
            }
          }
          group.addTask { _ = try? session.tokens() }
          group.addTask { session.cancel() }
        }
        group.addTask {
          try? await Task.sleep(for: .milliseconds(round))
          await session.close()
          await model.close()
        }
      }
    }
  }
}

/// Threads of the process that are not of the package's own, whose names the system tells on Linux; elsewhere 0.
private func foreignThreads() -> Int {
  let tasks = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task")) ?? []
  return tasks.count { (try? String(contentsOfFile: "/proc/self/task/\($0)/comm", encoding: .utf8)) != "mlxrt\n" }
}

let lines = """
  {"prompt": "What is it?", "completion": "A cat."}
  {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}

  """

var short: Adapter.TrainingOptions {
  var options = Adapter.TrainingOptions()
  options.steps = 12
  options.batchSize = 2
  options.reportEvery = 4
  options.learningRate = 0.01
  return options
}

private func onThreadWait(_ semaphore: DispatchSemaphore) async {
  _ = await onThread { semaphore.wait() }
}
