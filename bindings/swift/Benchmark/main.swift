// What a token costs more through this package than through bare C. Run by benches/swift.sh.
//
// benchmark MODEL SIDE TOKENS, where SIDE is `c`, the loop that C programs write around mlxrt_request_next, or `swift`, an
// AsyncThrowingStream of events. It prints microseconds of a token:
//   1. taken, when it waits already: the whole path through the stream, on the clock, without the engine beside it
//   2. streamed: CPU time of all threads but the engine's, sleeping and waking included
//   3. streamed: CPU time of the engine's thread, which calls notify
import CMlxrt
import Foundation
import Mlxrt

/// Nanoseconds of CPU time of the engine's thread, and of all others.
func cpu() -> (engine: Double, others: Double) {
  var times = (engine: 0.0, others: 0.0)
  for task in (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task")) ?? [] {
    func read(_ name: String) -> String {
      (try? String(contentsOfFile: "/proc/self/task/\(task)/\(name)", encoding: .utf8)) ?? ""
    }
    let time = read("schedstat").split(separator: " ").first.flatMap { Double($0) } ?? 0
    if read("comm").contains("engine") { times.engine += time } else { times.others += time }
  }
  return times
}

/// What is measured, on either side.
protocol Side {
  /// Starts a request of so many tokens.
  mutating func start(_ tokens: Int) async
  /// Reads it to its end; gives how many tokens there were.
  mutating func read() async -> Int
  /// Waits until the engine has done all that it does before it is read.
  func settle() async
}

struct C: Side {
  let model: OpaquePointer
  var session: OpaquePointer?
  var request: OpaquePointer?

  init(_ path: String) {
    var model: OpaquePointer?
    mlxrt_error_free(mlxrt_model_load(path, nil, &model))
    self.model = model!
  }

  mutating func start(_ tokens: Int) async {
    mlxrt_session_free(session)
    mlxrt_error_free(mlxrt_session_create(model, nil, &session))
    var options = mlxrt_generate_options()
    options.struct_size = UInt32(MemoryLayout<mlxrt_generate_options>.size)
    options.flags = MLXRT_GEN_GREEDY | MLXRT_GEN_IGNORE_EOS
    options.max_tokens = UInt32(tokens)
    var input = mlxrt_input()
    input.struct_size = UInt32(MemoryLayout<mlxrt_input>.size)
    "Hello".withCString { text in
      input.text = text
      input.text_len = MLXRT_NTS
      mlxrt_error_free(mlxrt_submit(session!, &input, &options, &request))
    }
  }

  mutating func read() async -> Int {
    var seen = 0
    var state: Int32 = 0
    repeat {
      var event: UnsafeMutablePointer<mlxrt_event>?
      mlxrt_error_free(mlxrt_request_next(request!, MLXRT_FOREVER, &event, &state))
      seen += event?.pointee.token_count ?? 0
      mlxrt_free(event)
    } while state == MLXRT_NEXT_EVENT
    mlxrt_request_free(request)
    return seen
  }

  func settle() async {
    var state = mlxrt_session_state()
    repeat {
      usleep(2000)
      state.struct_size = UInt32(MemoryLayout<mlxrt_session_state>.size)
      mlxrt_error_free(mlxrt_session_info(session!, &state))
    } while state.busy != 0
  }
}

struct Package: Side {
  let model: Model
  var session: Session
  var request: Request?

  init(_ path: String) async throws {
    model = try await Model.load(path)
    session = try Session(model)
  }

  mutating func start(_ tokens: Int) async {
    session = try! Session(model)
    let options = GenerateOptions(maxTokens: tokens, temperature: 0, flags: .ignoreEOS)
    request = try! await session.submit(.text("Hello"), options: options)
  }

  mutating func read() async -> Int {
    var seen = 0
    var events = request!.events.makeAsyncIterator()
    while let event = try! await events.next() {
      if case .text(let piece) = event { seen += piece.tokens.count }
    }
    return seen
  }

  func settle() async {
    repeat { try! await Task.sleep(for: .milliseconds(2)) } while try! session.state().isBusy
  }
}

func measure(_ side: some Side, _ tokens: Int) async {
  var side = side
  func run(_ count: Int) async {
    await side.start(count)
    let seen = await side.read()
    precondition(seen == count)
  }
  await run(50)
  // The engine runs ahead by 64 events, so that so many wait when it has done.
  var taken: [Double] = []
  for _ in 0..<40 {
    await side.start(60)
    await side.settle()
    let start = ContinuousClock.now
    let seen = await side.read()
    taken.append((ContinuousClock.now - start) / .microseconds(1) / Double(seen))
  }
  let before = cpu()
  await run(tokens)
  let after = cpu()
  let count = Double(tokens) * 1000
  print(taken.sorted()[20], (after.others - before.others) / count, (after.engine - before.engine) / count)
}

let arguments = CommandLine.arguments
switch arguments[2] {
case "c": await measure(C(arguments[1]), Int(arguments[3])!)
default: await measure(try await Package(arguments[1]), Int(arguments[3])!)
}
