import CMlxrt

/// The library of this process: how it starts, pauses and ends, its memory, its log.
///
/// Nothing of this is needed: loading a model starts the engine with the defaults, and letting the last one go ends it.
/// Starts and suspensions are counted and belong to all users of the library in the process.
public enum Runtime {
  /// The library's version, such as `0.1.0`.
  public static var version: String { String(cString: mlxrt_version()) }

  /// The version of the C ABI that the library has.
  public static var abiVersion: UInt32 { mlxrt_abi_version() }

  /// A library that is older than the header this was compiled with lacks functions.
  static func checkVersion() throws {
    guard abiVersion >= MLXRT_ABI else {
      throw MlxrtError(
        code: .incompatible,
        message: "this program was compiled with version \(MLXRT_ABI) of mlxrt's surface, the library has \(abiVersion)")
    }
  }

  // MARK: Life

  /// What computes.
  public enum Device: Sendable, Hashable {
    /// The GPU where there is one, else the CPU.
    case automatic
    /// The CPU.
    case cpu
    /// The GPU.
    case gpu

    var value: Int32 {
      switch self {
      case .automatic: MLXRT_DEVICE_AUTO
      case .cpu: MLXRT_DEVICE_CPU
      case .gpu: MLXRT_DEVICE_GPU
      }
    }
  }

  /// How much memory something may use.
  public enum Limit: Sendable, Hashable {
    /// So many bytes; 0 is none.
    case bytes(UInt64)
    /// Without a limit.
    case unlimited

    /// In the C structs 0 is "default", so 1 is "none".
    var value: UInt64 {
      switch self {
      case .bytes(let bytes): min(max(bytes, 1), .max - 1)
      case .unlimited: .max
      }
    }
  }

  /// How the library starts.
  public struct StartOptions: Sendable, Hashable {
    /// What computes.
    public var device = Device.automatic
    /// The most threads for the library's own work on the CPU; nil = one per physical core.
    public var cpuThreads: Int?
    /// The folder in which `mlx.metallib` lies; nil = beside the library.
    public var resourceFolder: String?
    /// What the library may use; nil = default. What would pass it is refused before it is allocated.
    public var memoryLimit: Limit?
    /// Freed buffers kept for reuse, and keys and values of sessions that are gone; nil = default.
    public var cacheLimit: Limit?
    /// What is kept resident for the GPU; nil = default.
    public var wiredLimit: Limit?

    /// All defaults.
    public init() {}
  }

  /// Starts the engine, or adds one more user of the one that runs. Who called this owes a ``shutdown(force:timeout:)``.
  public static func start(_ options: StartOptions = StartOptions()) async throws {
    try checkVersion()
    try await Blocking.run {
      let arena = Arena()
      var how = mlxrt_init_options()
      how.struct_size = structSize(mlxrt_init_options.self)
      how.device = options.device.value
      how.cpu_threads = try positive(options.cpuThreads, "cpuThreads")
      how.resource_dir = try options.resourceFolder.map { try arena.name($0, "resourceFolder") }
      how.memory_limit = options.memoryLimit?.value ?? 0
      how.cache_limit = options.cacheLimit?.value ?? 0
      how.wired_limit = options.wiredLimit?.value ?? 0
      try withExtendedLifetime(arena) { try check(mlxrt_init(&how)) }
    }
  }

  /// Drops one start. The engine ends when no start and no model is left.
  ///
  /// - Parameters:
  ///   - force: end it now, running requests as cancelled; what other users of the library still hold fails from then on.
  ///   - timeout: how long to wait; nil = as long as it takes.
  /// - Throws: ``MlxrtError/Code/busy`` names what is left; ``MlxrtError/Code/timeout``: call again.
  public static func shutdown(force: Bool = false, timeout: Duration? = nil) async throws {
    let milliseconds = try wait(timeout)
    try await Blocking.run { try check(mlxrt_shutdown(force ? MLXRT_SHUTDOWN_FORCE : 0, milliseconds)) }
  }

  /// Keeps the engine from the device, for an app that goes into the background: when this has returned, nothing computes
  /// until as many ``resume()``.
  ///
  /// - Parameter timeout: how long to wait; nil = as long as it takes.
  public static func suspend(timeout: Duration? = nil) async throws {
    let milliseconds = try wait(timeout)
    try await Blocking.run { try check(mlxrt_suspend(milliseconds)) }
  }

  /// The same on this thread, which waits, for `sceneDidEnterBackground` and the like: when it returns, nothing computes.
  @available(*, noasync, message: "it would block a thread of the cooperative pool; use suspend(timeout:)")
  public static func suspendBlocking(timeout: Duration? = nil) throws {
    try check(mlxrt_suspend(try wait(timeout)))
  }

  /// Takes one suspension back; after the last one running requests go on.
  public static func resume() throws { try check(mlxrt_resume()) }

  private static func wait(_ timeout: Duration?) throws -> UInt32 {
    // As an argument 0 does not wait, unlike in options.
    if timeout == .zero { return 0 }
    return timeout == nil ? MLXRT_FOREVER : try milliseconds(timeout, "timeout")
  }

  /// The device that the engine runs on, or would: `device`, `devices`, `mlx_version` and `info`.
  public static func deviceInfo() async throws -> JSONValue {
    try await Blocking.run { try takeJSON(JSONValue.self) { mlxrt_device_info($0, $1) } }
  }

  // MARK: Memory

  /// What the memory is used for, in bytes.
  public struct Memory: Sendable, Hashable {
    /// In use now.
    public let activeBytes: UInt64
    /// Freed buffers kept for reuse.
    public let cacheBytes: UInt64
    /// The most that was in use at once.
    public let peakBytes: UInt64
    /// Of ``activeBytes``: weights of models.
    public let weightBytes: UInt64
    /// Of ``activeBytes``: keys and values of sessions.
    public let kvBytes: UInt64
    /// What the library may use.
    public let limit: Limit
  }

  /// What the whole process uses of MLX's memory.
  public static func memory() throws -> Memory {
    var memory = mlxrt_memory()
    memory.struct_size = structSize(mlxrt_memory.self)
    try check(mlxrt_memory_get(&memory))
    return Memory(
      activeBytes: memory.active_bytes, cacheBytes: memory.cache_bytes, peakBytes: memory.peak_bytes,
      weightBytes: memory.weight_bytes, kvBytes: memory.kv_bytes,
      limit: memory.limit_bytes == .max ? .unlimited : .bytes(memory.limit_bytes))
  }

  /// Changes how much memory may be used, for the whole process; what is nil stays as it is.
  public static func setMemoryLimits(memory: Limit? = nil, cache: Limit? = nil, wired: Limit? = nil) throws {
    var limits = mlxrt_memory_limits()
    limits.struct_size = structSize(mlxrt_memory_limits.self)
    limits.memory_limit = memory?.value ?? 0
    limits.cache_limit = cache?.value ?? 0
    limits.wired_limit = wired?.value ?? 0
    try check(mlxrt_memory_set(&limits))
  }

  /// How much ``trimMemory(_:)`` frees.
  public enum Trim: Int32, Sendable, Hashable {
    /// Buffers kept for reuse.
    case buffers = 0
    /// Also prefixes kept for new sessions.
    case prefixes = 1
    /// Also the keys and values of idle sessions, which are computed anew when used.
    case idleSessions = 2
  }

  /// Frees what can be made again.
  public static func trimMemory(_ trim: Trim = .buffers) async throws {
    try await Blocking.run { try check(mlxrt_memory_trim(trim.rawValue)) }
  }

  // MARK: Log and counters

  /// How much a line of the log matters.
  public enum LogLevel: Int32, Sendable, Hashable, Comparable {
    /// Something failed.
    case error = 1
    /// Something is odd, and the library went on.
    case warning = 2
    /// What an operator wants to know.
    case info = 3
    /// What a developer wants to know.
    case debug = 4

    /// Errors come first.
    public static func < (left: LogLevel, right: LogLevel) -> Bool { left.rawValue < right.rawValue }
  }

  /// Receives lines of the log, on any thread, concurrently. It must be quick, and not call the library.
  public typealias LogSink = @Sendable (LogLevel, String) -> Void

  private final class SinkBox: Sendable {
    let sink: LogSink
    init(_ sink: @escaping LogSink) { self.sink = sink }
  }

  /// The sink that the library has. The lock is held while it changes, so that both sides agree on the last one.
  private static let sink = Locked<SinkBox?>(nil)

  /// Sends the log of the whole process to `sink`: lines up to `level`. nil is silence, the default. The last one to set it
  /// wins. When this has returned, the sink before is not called any more.
  public static func setLog(_ level: LogLevel = .info, to sink: LogSink?) async throws {
    let box = sink.map(SinkBox.init)
    try await Blocking.run {
      try Self.sink.with { current in
        if let box {
          try check(
            mlxrt_log_set(
              level.rawValue,
              { user, level, message, length in
                guard let user else { return }
                let box = Unmanaged<SinkBox>.fromOpaque(user).takeUnretainedValue()
                let bytes = UnsafeRawBufferPointer(start: message, count: length)
                box.sink(LogLevel(rawValue: level) ?? .debug, String(decoding: bytes, as: UTF8.self))
              }, Unmanaged.passUnretained(box).toOpaque()))
        } else {
          try check(mlxrt_log_set(level.rawValue, nil, nil))
        }
        current = box
      }
    }
  }

  /// The counters of the whole process.
  public static func metrics() throws -> Metrics { try Metrics.read(nil) }
}

/// Counters since the start, and the last request that ended.
public struct Metrics: Sendable, Hashable {
  /// Requests that were made, those that wait and those that were refused included.
  public let requestsStarted: UInt64
  /// Requests that have not ended: those that run now, and those that wait.
  public let requestsRunning: UInt64
  /// Of ``requestsRunning``: those that have not begun.
  public let requestsWaiting: UInt64
  /// Requests that ended by themselves, by a limit or by a stop.
  public let requestsCompleted: UInt64
  /// Requests that were cancelled.
  public let requestsCancelled: UInt64
  /// Requests that ended with an error.
  public let requestsFailed: UInt64
  /// Tokens of all inputs.
  public let promptTokens: UInt64
  /// Of ``promptTokens``: those that did not have to be computed.
  public let cachedTokens: UInt64
  /// Tokens delivered.
  public let generatedTokens: UInt64
  /// From the calls of requests that have ended until they began.
  public let queueTime: Duration
  /// In which inputs were taken in.
  public let prefillTime: Duration
  /// From first tokens to last ones.
  public let decodeTime: Duration
  /// Passes through the model that computed next tokens.
  public let passes: UInt64
  /// Rows of these passes, one for each session that shared the pass: by ``passes``, how many tokens a pass gave.
  public let passRows: UInt64
  /// Bytes in use now.
  public let activeBytes: UInt64
  /// Bytes of freed buffers kept for reuse.
  public let cacheBytes: UInt64
  /// The most bytes that were in use at once.
  public let peakBytes: UInt64
  /// Bytes of weights.
  public let weightBytes: UInt64
  /// Bytes of keys and values.
  public let kvBytes: UInt64
  /// The last request that ended.
  public let last: Last

  /// What the last request was.
  public struct Last: Sendable, Hashable {
    /// Tokens before its first generated one.
    public let promptTokens: UInt64
    /// Of ``promptTokens``: those that did not have to be computed.
    public let cachedTokens: UInt64
    /// Tokens delivered.
    public let generatedTokens: UInt64
    /// In which its input was taken in.
    public let prefillTime: Duration
    /// From its call until its first token.
    public let timeToFirstToken: Duration
    /// From its first token to its last one.
    public let decodeTime: Duration
    /// From its call to its end.
    public let totalTime: Duration
    /// The most bytes in use at once during it.
    public let peakBytes: UInt64
  }

  static func read(_ model: OpaquePointer?) throws -> Metrics {
    var data = mlxrt_metrics_data()
    data.struct_size = structSize(mlxrt_metrics_data.self)
    try check(mlxrt_metrics(model, &data))
    return Metrics(
      requestsStarted: data.requests_started, requestsRunning: data.requests_running,
      requestsWaiting: data.requests_waiting, requestsCompleted: data.requests_completed, requestsCancelled: data.requests_cancelled,
      requestsFailed: data.requests_failed, promptTokens: data.prompt_tokens, cachedTokens: data.cached_tokens,
      generatedTokens: data.generated_tokens, queueTime: Duration(data.queue_ns),
      prefillTime: Duration(data.prefill_ns), decodeTime: Duration(data.decode_ns), passes: data.passes,
      passRows: data.pass_rows, activeBytes: data.active_bytes, cacheBytes: data.cache_bytes,
      peakBytes: data.peak_bytes, weightBytes: data.weight_bytes, kvBytes: data.kv_bytes,
      last: Last(
        promptTokens: data.last_prompt_tokens, cachedTokens: data.last_cached_tokens,
        generatedTokens: data.last_generated_tokens, prefillTime: Duration(data.last_prefill_ns),
        timeToFirstToken: Duration(data.last_first_token_ns), decodeTime: Duration(data.last_decode_ns),
        totalTime: Duration(data.last_total_ns), peakBytes: data.last_peak_bytes))
  }
}
