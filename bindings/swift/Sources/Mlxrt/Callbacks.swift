import CMlxrt

/// What a callback wants next.
public enum Flow: Sendable, Hashable {
  /// Go on.
  case `continue`
  /// End the call, with what it has.
  case stop
}

/// How far a long call is.
public struct ByteProgress: Sendable, Hashable {
  /// Bytes done.
  public let done: UInt64
  /// Bytes in all.
  public let total: UInt64
  /// From 0 to 1.
  public var fraction: Double { total == 0 ? 1 : Double(done) / Double(total) }

  /// So many bytes of so many.
  public init(done: UInt64, total: UInt64) {
    self.done = done
    self.total = total
  }
}

/// Hears how far a long call is, on a thread of its own. What it throws ends the call and comes out of it.
public typealias ProgressCallback = @Sendable (ByteProgress) throws -> Void

/// What a C callback gets as its user data, for the time of one blocking call: what was thrown in it waits here, as nothing
/// may be thrown through C.
final class CallbackBox<Argument> {
  private let callback: (Argument) throws -> Flow
  private let flag: Flag?
  /// What it said last: nothing, stop, that the task is cancelled, or an error.
  private enum End { case none, stopped, cancelled, thrown(any Error) }
  private var end = End.none

  init(_ flag: Flag? = nil, _ callback: @escaping (Argument) throws -> Flow) {
    self.flag = flag
    self.callback = callback
  }

  func hear(_ argument: Argument) -> Int32 {
    // A call may call back once more after it was told to stop.
    guard case .none = end else { return MLXRT_RETURN_STOP }
    do {
      if flag?.isSet == true {
        end = .cancelled
      } else if try callback(argument) == .stop {
        end = .stopped
      }
    } catch {
      end = .thrown(error)
    }
    if case .none = end { return MLXRT_RETURN_CONTINUE }
    return MLXRT_RETURN_STOP
  }

  var pointer: UnsafeMutableRawPointer { Unmanaged.passUnretained(self).toOpaque() }

  static func from(_ pointer: UnsafeMutableRawPointer?) -> CallbackBox? {
    pointer.map { Unmanaged<CallbackBox>.fromOpaque($0).takeUnretainedValue() }
  }

  /// Runs a call that has this box. What its callback threw, or that the task was cancelled, comes before what the library
  /// made of it.
  func run<T>(_ call: () throws -> T) throws -> T {
    let outcome = Result { try withExtendedLifetime(self, call) }
    switch (end, outcome) {
    case (.thrown(let error), _): throw error
    case (.cancelled, .failure(let error as MlxrtError)) where error.code != .cancelled: throw error
    case (.cancelled, _): throw CancellationError()
    default: return try outcome.get()
    }
  }
}

typealias ProgressBox = CallbackBox<ByteProgress>

extension CallbackBox where Argument == ByteProgress {
  convenience init(progress: ProgressCallback?, _ flag: Flag) {
    self.init(flag) { try progress?($0); return .continue }
  }

  /// The C function of this box.
  static var function: mlxrt_progress_fn {
    { user, done, total in
      ProgressBox.from(user)?.hear(ByteProgress(done: done, total: total)) ?? MLXRT_RETURN_CONTINUE
    }
  }
}

/// A call that reads or writes files at a path, on a thread of its own.
func fileCall<T: Sendable>(
  _ path: String, _ timeout: Duration?, _ progress: ProgressCallback?,
  _ call: @escaping @Sendable (UnsafePointer<CChar>, UnsafePointer<mlxrt_call_options>) throws -> T
) async throws -> T {
  try await Blocking.runCancellable { flag in
    let arena = Arena()
    let box = ProgressBox(progress: progress, flag)
    var how = mlxrt_call_options()
    how.struct_size = structSize(mlxrt_call_options.self)
    how.timeout_ms = try milliseconds(timeout, "timeout")
    how.progress = ProgressBox.function
    how.progress_data = box.pointer
    let path = try arena.name(path, "path")
    return try box.run { try withExtendedLifetime(arena) { try call(path, &how) } }
  }
}
