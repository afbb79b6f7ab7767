import CMlxrt

/// A conversation or text in progress on one model.
///
/// It is its list of tokens; keys and values are a cache of it. Requests on one session run one after the other; any task
/// may use it. Letting it go, or ``close()``, ends what runs on it.
public final class Session: Sendable {
  let handle: Handle
  /// The model that it is of.
  public let model: Model

  /// What a session is like.
  public struct Options: Sendable, Hashable {
    /// The most tokens it holds; nil = the model's limit.
    public var context: Int?
    /// Keep keys and values of only so many of the latest tokens; nil = of all.
    public var window: Int?
    /// With ``window``: the first tokens that are never dropped; nil = 4.
    public var keep: Int?
    /// Bits per cached key and value, 4 or 8; nil = unquantised.
    public var kvBits: Int?
    /// With ``kvBits``: values per quantisation group.
    public var kvGroupSize: Int?
    /// Bytes of keys and values that it may use; nil = what the budget has left.
    public var kvLimit: UInt64?

    /// All defaults, or some of them.
    public init(
      context: Int? = nil, window: Int? = nil, keep: Int? = nil, kvBits: Int? = nil, kvGroupSize: Int? = nil,
      kvLimit: UInt64? = nil
    ) {
      self.context = context
      self.window = window
      self.keep = keep
      self.kvBits = kvBits
      self.kvGroupSize = kvGroupSize
      self.kvLimit = kvLimit
    }

    func make() throws -> mlxrt_session_options {
      var options = mlxrt_session_options()
      options.struct_size = structSize(mlxrt_session_options.self)
      options.context = try positive(context, "context")
      options.window = try positive(window, "window")
      options.keep = try orOff(keep, "keep")
      options.kv_bits = try positive(kvBits, "kvBits")
      options.kv_group_size = try positive(kvGroupSize, "kvGroupSize")
      if kvLimit == 0 { throw invalid("kvLimit must not be 0") }
      options.kv_limit = kvLimit ?? 0
      return options
    }
  }

  /// Where a session is.
  public struct State: Sendable, Hashable {
    /// Tokens that it holds.
    public let tokens: UInt64
    /// The most tokens it can hold.
    public let context: UInt64
    /// Tokens whose keys and values are computed.
    public let kvTokens: UInt64
    /// Bytes of these keys and values.
    public let kvBytes: UInt64
    /// Does a request run on it?
    public let isBusy: Bool
    /// Adapters applied.
    public let adapters: Int
  }

  /// Starts a session. It holds no memory to speak of before its first request.
  public convenience init(_ model: Model, options: Options = Options()) throws {
    var options = try options.make()
    var pointer: OpaquePointer?
    try model.handle.with { try check(mlxrt_session_create($0, &options, &pointer)) }
    self.init(pointer, model)
  }

  private init(_ pointer: OpaquePointer?, _ model: Model) {
    self.model = model
    handle = Handle(pointer, "session") { mlxrt_session_free($0) }
  }

  /// Gives the session up, ends what runs on it as cancelled, and comes back when that is done. Everything else on it is an
  /// ``MlxrtError/Code/invalidHandle`` from then on.
  public func close() async { await handle.close() }

  // MARK: Generating

  /// Generates, as a stream of events; the last one is ``Event/finished(_:)``.
  ///
  /// The request is queued when the stream is first asked for an event. When the task that reads is cancelled, or the stream is let
  /// go, the request is cancelled; the stream then ends without `finished`. What was made stays in the session.
  ///
  /// ```swift
  /// for try await event in session.generate(.messages([.user("Hello")])) {
  ///   if case .text(let piece) = event { print(piece.text, terminator: "") }
  /// }
  /// ```
  public func generate(
    _ input: Input, options: GenerateOptions = GenerateOptions()
  ) -> AsyncThrowingStream<Event, any Error> {
    let lazy = LazyRequest(self, input, options)
    return AsyncThrowingStream { try await lazy.next() }
  }

  /// Generates an answer to a conversation, its whole history, as a stream of events.
  public func generate(
    _ messages: [Message], tools: [Tool] = [], options: GenerateOptions = GenerateOptions()
  ) -> AsyncThrowingStream<Event, any Error> {
    generate(.messages(messages, tools: tools), options: options)
  }

  /// Generates all of an answer.
  ///
  /// - Throws: `CancellationError` when the task is cancelled, which cancels the request.
  public func respond(
    to input: Input, options: GenerateOptions = GenerateOptions()
  ) async throws -> Answer {
    let request = try await submit(input, options: options)
    var answer = Answer()
    while let event = try await request.next() {
      answer.add(event)
      if case .finished(let result) = event {
        answer.result = result
        return answer
      }
    }
    throw CancellationError()
  }

  /// Generates all of an answer to a conversation, its whole history.
  public func respond(
    to messages: [Message], tools: [Tool] = [], options: GenerateOptions = GenerateOptions()
  ) async throws -> Answer {
    try await respond(to: .messages(messages, tools: tools), options: options)
  }

  /// Queues a request behind those that were submitted before it.
  public func submit(_ input: Input, options: GenerateOptions = GenerateOptions()) async throws -> Request {
    try Task.checkCancellation()
    if input.isBig { return try await Blocking.run { try Request(self, input, options) } }
    return try Request(self, input, options)
  }

  /// Generates on this thread, which waits until the end, and hands each event to `onEvent`: for programs that have their
  /// own threads. What `onEvent` throws ends the request and comes out of here.
  @available(*, noasync, message: "it would block a thread of the cooperative pool; use generate(_:options:)")
  public func generateBlocking(
    _ input: Input, options: GenerateOptions = GenerateOptions(), onEvent: (Event) throws -> Flow
  ) throws -> GenerationResult {
    let arena = Arena()
    var given = try input.make(arena)
    var how = try options.make(arena)
    return try withoutActuallyEscaping(onEvent) { onEvent in
      let box = CallbackBox<Event>(nil, onEvent)
      return try box.run {
        var result = mlxrt_result()
        result.struct_size = structSize(mlxrt_result.self)
        try withExtendedLifetime(arena) {
          try handle.with { session in
            try check(
              mlxrt_generate(
                session, &given, &how,
                { user, event in
                  guard let read = Event(event) else { return MLXRT_RETURN_CONTINUE }
                  return CallbackBox<Event>.from(user)?.hear(read) ?? MLXRT_RETURN_CONTINUE
                }, box.pointer, &result))
          }
        }
        return GenerationResult(result)
      }
    }
  }

  /// Ends what runs on the session now; requests that wait are not touched. The session stays usable and keeps what was
  /// delivered.
  public func cancel() {
    handle.ifOpen { mlxrt_session_cancel($0) }
  }

  // MARK: What it holds

  /// Where the session is.
  public func state() throws -> State {
    try handle.with { session in
      var state = mlxrt_session_state()
      state.struct_size = structSize(mlxrt_session_state.self)
      try check(mlxrt_session_info(session, &state))
      return State(
        tokens: state.tokens, context: state.context, kvTokens: state.kv_tokens, kvBytes: state.kv_bytes,
        isBusy: state.busy != 0, adapters: Int(state.adapters))
    }
  }

  /// The tokens that the session holds. They end with the last one that was delivered.
  public func tokens() throws -> [Int32] {
    try handle.with { session in try takeTokens { mlxrt_session_tokens(session, $0, $1) } }
  }

  /// The last answer as a message. A chat is: append it to the messages, append the user's next one, generate.
  public func message() throws -> Message {
    try handle.with { session in try takeJSON(Message.self) { mlxrt_session_message(session, $0, $1) } }
  }

  // MARK: Forks and cuts

  /// Makes a session of its own with the same tokens, options and adapters. What is computed is shared until one of the two
  /// goes on, so that a fork costs no more than its tokens, however long the session is.
  ///
  /// - Throws: ``MlxrtError/Code/busy`` while a request of the session runs or waits.
  public func fork() throws -> Session {
    var pointer: OpaquePointer?
    try handle.with { try check(mlxrt_session_fork($0, nil, &pointer)) }
    return Session(pointer, model)
  }

  /// Keeps the first tokens, as ``tokens()`` gives them, and forgets the rest, the last answer too. The next request goes on
  /// from there.
  ///
  /// - Throws: ``MlxrtError/Code/invalidArgument`` when the session holds fewer, ``MlxrtError/Code/busy`` while a request of
  ///   it runs or waits.
  public func truncate(to tokens: Int) throws {
    if tokens < 0 { throw invalid("tokens must not be negative, not \(tokens)") }
    try handle.with { try check(mlxrt_session_truncate($0, tokens)) }
  }

  // MARK: Files

  /// Writes the session to a file, whole or not at all: its tokens, its last answer, its options, which adapters are applied to it,
  /// and what is computed with these; on a thread of its own. mlx-lm 0.32 reads the file as a prompt cache. No request of the
  /// session begins meanwhile.
  ///
  /// - Parameters:
  ///   - path: the file; what was there is replaced when all of it is on the disk.
  ///   - timeout: after which saving ends with ``MlxrtError/Code/timeout``.
  ///   - progress: hears how far it is; what it throws ends the saving.
  /// - Throws: ``MlxrtError/Code/busy`` while a request of the session runs or waits.
  public func save(to path: String, timeout: Duration? = nil, progress: ProgressCallback? = nil) async throws {
    try await fileCall(path, timeout, progress) { path, how in
      try self.handle.with { try check(mlxrt_session_save($0, path, how)) }
    }
  }

  /// Makes a session of a file that ``save(to:timeout:progress:)`` wrote, or mlx-lm with the tokens in its metadata. It goes on as the
  /// one that was saved would have.
  ///
  /// - Parameters:
  ///   - path: the file.
  ///   - model: what it goes on with.
  ///   - timeout: after which loading ends with ``MlxrtError/Code/timeout``.
  ///   - progress: hears how far it is; what it throws ends the loading.
  /// - Throws: ``MlxrtError/Code/incompatible`` for a session of another model, and for one with an adapter that is not loaded;
  ///   ``MlxrtError/Code/badModel`` for a file that is damaged.
  public static func load(
    _ path: String, for model: Model, timeout: Duration? = nil, progress: ProgressCallback? = nil
  ) async throws -> Session {
    try await fileCall(path, timeout, progress) { path, how in
      var pointer: OpaquePointer?
      try model.handle.with { try check(mlxrt_session_load($0, path, how, &pointer)) }
      return Session(pointer, model)
    }
  }

  // MARK: Looking into it

  /// The log-probability of each token of a text that there is: what the model says of it after the session's tokens, those of
  /// `prefix`, and the text's before it. The session stays as it is.
  ///
  /// - Parameters:
  ///   - target: text or tokens, made into tokens by itself and without a BOS.
  ///   - prefix: text and tokens follow the session's, messages stand in their place; nil = nothing.
  ///   - timeout: after which it ends with ``MlxrtError/Code/timeout``.
  ///   - progress: hears of tokens, where files have bytes.
  /// - Throws: `CancellationError` when the task is cancelled, ``MlxrtError/Code/busy`` while a request of the session runs or
  ///   waits.
  public func score(
    _ target: Input, after prefix: Input? = nil, timeout: Duration? = nil, progress: ProgressCallback? = nil
  ) async throws -> [Float] {
    try await Blocking.runCancellable { flag in
      let arena = Arena()
      let box = ProgressBox(progress: progress, flag)
      var how = mlxrt_call_options()
      how.struct_size = structSize(mlxrt_call_options.self)
      how.timeout_ms = try milliseconds(timeout, "timeout")
      how.progress = ProgressBox.function
      how.progress_data = box.pointer
      var scored = try target.make(arena)
      let before = try prefix?.make(arena)
      return try box.run {
        try withExtendedLifetime(arena) {
          try self.handle.with { session in
            try takeFloats { logprobs, count in
              guard var before else { return mlxrt_score(session, nil, &scored, &how, logprobs, count) }
              return mlxrt_score(session, &before, &scored, &how, logprobs, count)
            }
          }
        }
      }
    }
  }

  /// The keys that a layer's attention looks at, behind the rotary embedding: `[kv_heads, tokens, head_dim]`, of the first of
  /// ``tokens()`` that are computed.
  ///
  /// - Throws: ``MlxrtError/Code/unsupported`` when the layer has no keys, ``MlxrtError/Code/notFound`` when nothing is computed.
  public func inspectAttention(layer: Int) async throws -> Tensor {
    try await Blocking.run {
      let number: UInt32 = try field(layer, "layer")
      return try self.handle.with { session in try Tensor { mlxrt_inspect_attention(session, number, $0) } }
    }
  }

  // MARK: Adapters

  /// Sets the adapters, from the next request on: none, one, or several, whose changes add up.
  ///
  /// - Parameters:
  ///   - adapters: all that are applied from then on.
  ///   - scales: what each is multiplied by besides its own scale; nil = 1 each.
  public func apply(_ adapters: [Adapter], scales: [Float]? = nil) throws {
    try Adapter.withPointers(adapters, scales) { pointers in
      try handle.with { try check(mlxrt_apply_adapter($0, pointers, scales, pointers.count)) }
    }
  }
}

/// All of an answer.
public struct Answer: Sendable, Hashable {
  /// The answer's text.
  public var text = ""
  /// What the model thought before it.
  public var thinking = ""
  /// The tools that it calls.
  public var toolCalls: [ToolCall] = []
  /// The tokens that were generated.
  public var tokens: [Int32] = []
  /// The log-probability of each token, where they were asked for.
  public var logprobs: [Float] = []
  /// How it ended and what it cost.
  public internal(set) var result = GenerationResult(mlxrt_result())

  /// It as a message for the history.
  public var message: Message {
    Message(
      role: .assistant, content: text, reasoning: thinking.isEmpty ? nil : thinking,
      toolCalls: toolCalls.isEmpty ? nil : toolCalls)
  }

  mutating func add(_ event: Event) {
    func count(_ piece: Event.Piece) {
      tokens += piece.tokens
      logprobs += piece.logprobs
    }
    switch event {
    case .text(let piece):
      text += piece.text
      count(piece)
    case .thinking(let piece):
      thinking += piece.text
      count(piece)
    case .toolCall(let call, let piece):
      toolCalls.append(call)
      count(piece)
    case .progress, .toolDelta, .finished: break
    }
  }
}

/// A request that is submitted when it is first read.
private final class LazyRequest: Sendable {
  private let session: Session
  private let input: Input
  private let options: GenerateOptions
  private let made = Locked<Result<Request, any Error>?>(nil)

  init(_ session: Session, _ input: Input, _ options: GenerateOptions) {
    self.session = session
    self.input = input
    self.options = options
  }

  func next() async throws -> Event? {
    if let made = made.with({ $0 }) { return try await made.get().next() }
    let outcome: Result<Request, any Error>
    do {
      outcome = .success(try await session.submit(input, options: options))
    } catch is CancellationError {
      return nil
    } catch {
      outcome = .failure(error)
    }
    // Where two tasks read one stream from its start, the second request is let go, and with it cancelled.
    let kept = made.with { made in
      made = made ?? outcome
      return made ?? outcome
    }
    return try await kept.get().next()
  }
}
