import CMlxrt

/// A loaded model. Any task may use it, several at once; sessions and adapters keep it alive.
public final class Model: Sendable {
  let handle: Handle

  /// How a model is loaded.
  public struct LoadOptions: Sendable, Hashable {
    /// The most tokens a session may ask for; nil = the model's own limit.
    public var context: Int?
    /// After which loading ends with ``MlxrtError/Code/timeout``.
    public var timeout: Duration?
    /// The folder of a draft model for speculation.
    public var draftPath: String?
    /// Whether the folder's files may be links to files outside it, such as weights in a store.
    public var followLinks: Bool

    /// All defaults, or some of them.
    public init(context: Int? = nil, timeout: Duration? = nil, draftPath: String? = nil, followLinks: Bool = false) {
      self.context = context
      self.timeout = timeout
      self.draftPath = draftPath
      self.followLinks = followLinks
    }

    func make(_ arena: Arena) throws -> mlxrt_load_options {
      var options = mlxrt_load_options()
      options.struct_size = structSize(mlxrt_load_options.self)
      options.context = try positive(context, "context")
      options.timeout_ms = try milliseconds(timeout, "timeout")
      options.draft_path = try draftPath.map { try arena.name($0, "draftPath") }
      if followLinks { options.flags |= MLXRT_LOAD_FOLLOW_LINKS }
      return options
    }
  }

  /// What a model is. What is not here is in ``json``.
  public struct Info: Sendable, Hashable, Decodable {
    /// The name of its family, such as `qwen3`.
    public let modelType: String
    /// How many parameters it has.
    public let parameters: Int
    /// Bytes of its weights.
    public let weightBytes: Int
    /// The most tokens of a session.
    public let context: Int
    /// Tokens that it knows.
    public let vocabularySize: Int
    /// Tokens that end a text.
    public let endTokens: [Int32]
    /// Before it is loaded: bytes that it will need with one full session.
    public let estimatedBytes: Int?
    /// Once it is loaded: where its chat format comes from.
    public let chatFormat: String?
    /// All that the library tells of it.
    public let json: JSONValue

    private enum CodingKeys: String, CodingKey {
      case parameters, context
      case modelType = "model_type"
      case weightBytes = "weight_bytes"
      case vocabularySize = "vocab_size"
      case endTokens = "eos_token_ids"
      case estimatedBytes = "estimated_bytes"
      case chatFormat = "chat_format"
    }

    /// Reads the library's JSON.
    public init(from decoder: any Decoder) throws {
      let container = try decoder.container(keyedBy: CodingKeys.self)
      modelType = try container.decode(String.self, forKey: .modelType)
      parameters = try container.decode(Int.self, forKey: .parameters)
      weightBytes = try container.decode(Int.self, forKey: .weightBytes)
      context = try container.decode(Int.self, forKey: .context)
      vocabularySize = try container.decode(Int.self, forKey: .vocabularySize)
      endTokens = try container.decode([Int32].self, forKey: .endTokens)
      estimatedBytes = try container.decodeIfPresent(Int.self, forKey: .estimatedBytes)
      chatFormat = try container.decodeIfPresent(String.self, forKey: .chatFormat)
      json = try JSONValue(from: decoder)
    }
  }

  private init(_ pointer: OpaquePointer?) {
    handle = Handle(pointer, "model") { mlxrt_model_free($0) }
  }

  /// Loads a model, on a thread of its own.
  ///
  /// - Parameters:
  ///   - path: a folder in mlx-lm's form, or the id of a model that is in the local Hugging Face cache.
  ///   - options: limits.
  ///   - progress: hears how far it is; what it throws ends the loading.
  /// - Throws: ``MlxrtError`` that names the file and key; `CancellationError` when the task is cancelled, which ends the
  ///   loading.
  public static func load(
    _ path: String, options: LoadOptions = LoadOptions(), progress: ProgressCallback? = nil
  ) async throws -> Model {
    try Runtime.checkVersion()
    return try await Blocking.runCancellable { flag in
      let arena = Arena()
      let box = ProgressBox(progress: progress, flag)
      var how = try options.make(arena)
      how.progress = ProgressBox.function
      how.progress_data = box.pointer
      let path = try arena.name(path, "path")
      return try box.run {
        var pointer: OpaquePointer?
        try withExtendedLifetime(arena) { try check(mlxrt_model_load(path, &how, &pointer)) }
        return Model(pointer)
      }
    }
  }

  /// Tells what a model folder holds and what it would need, without reading its weights.
  ///
  /// - Parameters:
  ///   - path: a folder, or an id, as in ``load(_:options:progress:)``.
  ///   - options: as it would be loaded.
  ///   - session: what a session on it would be like, for the estimate.
  public static func inspect(
    _ path: String, options: LoadOptions = LoadOptions(), session: Session.Options = Session.Options()
  ) async throws -> Info {
    try Runtime.checkVersion()
    return try await Blocking.run {
      let arena = Arena()
      var load = try options.make(arena)
      var session = try session.make()
      let path = try arena.name(path, "path")
      return try withExtendedLifetime(arena) {
        try takeJSON(Info.self) { mlxrt_model_inspect(path, &load, &session, $0, $1) }
      }
    }
  }

  /// What the model is.
  public func info() throws -> Info {
    try handle.with { model in try takeJSON(Info.self) { mlxrt_model_info(model, $0, $1) } }
  }

  /// Writes the model, with adapters fused into its weights, as a folder that mlx-lm and this library load; on a thread of its
  /// own. Weights are quantised as they were. A model that is in the folder is replaced when everything is on the disk, also
  /// if it is the one that was loaded.
  ///
  /// - Parameters:
  ///   - path: the folder.
  ///   - adapters: what to fuse in; none writes the model as it is.
  ///   - scales: what each is multiplied by besides its own scale; nil = 1 each.
  ///   - timeout: after which saving ends with ``MlxrtError/Code/timeout``.
  ///   - progress: hears how far it is; what it throws ends the saving.
  public func save(
    to path: String, adapters: [Adapter] = [], scales: [Float]? = nil, timeout: Duration? = nil,
    progress: ProgressCallback? = nil
  ) async throws {
    try await fileCall(path, timeout, progress) { path, how in
      try Adapter.withPointers(adapters, scales) { pointers in
        try self.handle.with { try check(mlxrt_model_save($0, pointers, scales, pointers.count, path, how)) }
      }
    }
  }

  /// Gives the model up, and comes back when that is done. Sessions and adapters keep what they need of it; everything else
  /// on it is an ``MlxrtError/Code/invalidHandle`` from then on.
  public func close() async { await handle.close() }

  // MARK: Text and tokens

  /// How text is made into tokens.
  public struct TokenizeFlags: OptionSet, Sendable, Hashable {
    /// The bits of the C ABI, `MLXRT_TOKENIZE_*`.
    public let rawValue: UInt32
    /// Bits of the C ABI.
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    /// Add what the tokenizer's post-processor adds (BOS, EOS).
    public static let addSpecial = TokenizeFlags(rawValue: MLXRT_TOKENIZE_ADD_SPECIAL)
    /// Special tokens written in the text are just text.
    public static let specialAsText = TokenizeFlags(rawValue: MLXRT_TOKENIZE_SPECIAL_AS_TEXT)
  }

  /// Turns text into token ids; on a thread of its own where it is long.
  public func tokenize(_ text: String, flags: TokenizeFlags = []) async throws -> [Int32] {
    if Input.text(text).isBig { return try await Blocking.run { try self.tokens(of: text, flags) } }
    return try tokens(of: text, flags)
  }

  private func tokens(of text: String, _ flags: TokenizeFlags) throws -> [Int32] {
    let arena = Arena()
    let (bytes, count) = arena.text(text)
    return try withExtendedLifetime(arena) {
      try handle.with { model in
        try takeTokens { mlxrt_tokenize(model, bytes, count, flags.rawValue, $0, $1) }
      }
    }
  }

  /// Turns token ids into text; bytes that are no character come out as U+FFFD.
  public func detokenize(_ tokens: [Int32], skipSpecial: Bool = false) throws -> String {
    try handle.with { model in
      try takeString {
        mlxrt_detokenize(model, tokens, tokens.count, skipSpecial ? MLXRT_DETOKENIZE_SKIP_SPECIAL : 0, $0, $1)
      }
    }
  }

  /// Writes a conversation as the prompt that the model sees.
  public func render(_ input: Input) throws -> String {
    let arena = Arena()
    var given = try input.make(arena)
    return try withExtendedLifetime(arena) {
      try handle.with { model in try takeString { mlxrt_render(model, &given, $0, $1) } }
    }
  }

  /// The tokens that a request of a fresh session starts from: the prompt as `generate` takes it in. The content of messages
  /// makes no special tokens, so this is exact where tokenizing what `render` gives is not.
  public func promptTokens(_ input: Input) throws -> [Int32] {
    let arena = Arena()
    var given = try input.make(arena)
    return try withExtendedLifetime(arena) {
      try handle.with { model in try takeTokens { mlxrt_count_tokens(model, &given, $0, $1) } }
    }
  }

  /// How many tokens `promptTokens` gives.
  public func countTokens(_ input: Input) throws -> Int {
    let arena = Arena()
    var given = try input.make(arena)
    var count = 0
    try withExtendedLifetime(arena) {
      try handle.with { model in try check(mlxrt_count_tokens(model, &given, nil, &count)) }
    }
    return count
  }

  /// Writes a conversation as the prompt that the model sees.
  public func render(_ messages: [Message], tools: [Tool] = []) throws -> String {
    try render(.messages(messages, tools: tools))
  }

  /// The counters of this model's requests.
  public func metrics() throws -> Metrics {
    try handle.with { try Metrics.read($0) }
  }
}
