import CMlxrt

/// How to generate. What is nil is the model's own default where its `generation_config.json` has one, and neutral
/// otherwise; what is set is meant, zeros too.
public struct GenerateOptions: Sendable, Hashable {
  /// The most tokens to generate; nil until the model ends or the context is full, 0 to take the input in only.
  public var maxTokens: Int?
  /// The time for all of it, queueing included. Its end is ``StopReason/timeout``, which is no error.
  public var timeout: Duration?
  /// 0 is greedy: always the most likely token.
  public var temperature: Float?
  /// The smallest set of likely tokens with this probability, up to 1 = off.
  public var topP: Float?
  /// Tokens at least this share of the likeliest one's probability, up to 1; 0 = off.
  public var minP: Float?
  /// The so many likeliest tokens; 0 = off.
  public var topK: Int?
  /// Probability with which the likeliest tokens are left out, up to 1; 0 = off.
  public var xtcProbability: Float?
  /// With ``xtcProbability``: tokens above this probability are left out, but for the least likely of them; up to 0.5.
  public var xtcThreshold: Float?
  /// Divides the logits of tokens seen, greater than 0; 1 = off.
  public var repetitionPenalty: Float?
  /// Taken from the logits of tokens seen, -2 to 2.
  public var presencePenalty: Float?
  /// Taken from the logits of tokens seen, per occurrence, -2 to 2.
  public var frequencyPenalty: Float?
  /// How many of the latest tokens the penalties look at; nil = 20, `Int.max` = all.
  public var penaltyWindow: Int?
  /// The same seed gives the same text, not 0; nil = a random one, which the result reports.
  public var seed: UInt64?
  /// Log-probabilities of the model's own distribution, with so many of the likeliest alternatives; 0 = without any,
  /// nil = no log-probabilities.
  public var logprobs: Int?
  /// The most tokens of thinking; 0 = no thinking, nil = no limit.
  public var thinkingBudget: Int?
  /// Strings that end the generation; none of their bytes is ever delivered.
  public var stop: [String] = []
  /// Tokens that end the generation, besides the model's own.
  public var stopTokens: [Int32] = []
  /// What is added to the logits of tokens; `-Float.infinity` bans one.
  public var bias: [Int32: Float] = [:]
  /// What the answer must match; nil = anything.
  public var grammar: Grammar?
  /// An ``Event/progress(done:total:)`` every so many tokens taken in; 0 = none.
  public var progressTokens: Int = 0
  /// Tokens that are guessed at a time from what came before, which changes no answer; 0 = none, nil = as many as pay.
  public var draftTokens: Int?
  /// Higher first where requests wait for the device; equals take turns, and nobody starves.
  public var priority: Int32 = 0
  /// What is done differently from the default.
  public var flags: Flags = []

  /// All defaults.
  public init() {}

  /// What people set most.
  public init(
    maxTokens: Int? = nil, temperature: Float? = nil, topP: Float? = nil, topK: Int? = nil, seed: UInt64? = nil,
    stop: [String] = [], timeout: Duration? = nil, flags: Flags = []
  ) {
    self.maxTokens = maxTokens
    self.temperature = temperature
    self.topP = topP
    self.topK = topK
    self.seed = seed
    self.stop = stop
    self.timeout = timeout
    self.flags = flags
  }

  /// What is done differently from the default.
  public struct Flags: OptionSet, Sendable, Hashable {
    /// The bits of the C ABI, `MLXRT_GEN_*`.
    public let rawValue: UInt32
    /// Bits of the C ABI.
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    /// Do not stop at an end-of-sequence token.
    public static let ignoreEOS = Flags(rawValue: MLXRT_GEN_IGNORE_EOS)
    /// Events without text: nothing is detokenised, and stop strings are not looked for.
    public static let tokensOnly = Flags(rawValue: MLXRT_GEN_TOKENS_ONLY)
    /// Reuse nothing that was computed before, by this session or by another one.
    public static let noPrefixCache = Flags(rawValue: MLXRT_GEN_NO_PREFIX_CACHE)
    /// What is nil is neutral (temperature 1), not what the model's `generation_config.json` says.
    public static let noModelDefaults = Flags(rawValue: MLXRT_GEN_NO_MODEL_DEFAULTS)
    /// No channels: everything is an event of text, markers included.
    public static let rawText = Flags(rawValue: MLXRT_GEN_RAW_TEXT)
    /// With tools: the arguments of every call obey the schema of its tool.
    public static let strictTools = Flags(rawValue: MLXRT_GEN_STRICT_TOOLS)
    /// Events of calls while their arguments come.
    public static let toolDeltas = Flags(rawValue: MLXRT_GEN_TOOL_DELTAS)
  }

  /// The C struct, whose memory lives as long as the arena.
  func make(_ arena: Arena) throws -> mlxrt_generate_options {
    var options = mlxrt_generate_options()
    options.struct_size = structSize(mlxrt_generate_options.self)
    options.flags = flags.rawValue
    if maxTokens == 0 { options.flags |= MLXRT_GEN_PREFILL_ONLY }
    options.max_tokens = try field(maxTokens, "maxTokens")
    options.timeout_ms = try milliseconds(timeout, "timeout")
    if temperature == 0 {
      options.flags |= MLXRT_GEN_GREEDY
    } else {
      options.temperature = temperature ?? 0
    }
    options.top_p = try nonzero(topP, "topP")
    options.min_p = minP == 0 ? -1 : try notNegative(minP, "minP")
    options.top_k = try orOff(topK, "topK")
    options.xtc_probability = xtcProbability == 0 ? -1 : try notNegative(xtcProbability, "xtcProbability")
    options.xtc_threshold = try nonzero(xtcThreshold, "xtcThreshold")
    options.repetition_penalty = try nonzero(repetitionPenalty, "repetitionPenalty")
    options.presence_penalty = presencePenalty ?? 0
    options.frequency_penalty = frequencyPenalty ?? 0
    options.penalty_window = penaltyWindow == .max ? .max : try positive(penaltyWindow, "penaltyWindow")
    if seed == 0 { throw invalid("seed must not be 0") }
    options.seed = seed ?? 0
    if logprobs != nil { options.flags |= MLXRT_GEN_LOGPROBS }
    options.top_logprobs = try field(logprobs, "logprobs")
    options.thinking_budget = try orOff(thinkingBudget, "thinkingBudget")
    if !stop.isEmpty {
      let texts = stop.map { arena.text($0) }
      options.stop = UnsafePointer(arena.array(texts.map(\.0)))
      options.stop_lens = UnsafePointer(arena.array(texts.map(\.1)))
      options.stop_count = stop.count
    }
    if !stopTokens.isEmpty {
      options.stop_tokens = UnsafePointer(arena.array(stopTokens))
      options.stop_token_count = stopTokens.count
    }
    if !bias.isEmpty {
      options.bias_tokens = UnsafePointer(arena.array(bias.keys))
      options.bias_values = UnsafePointer(arena.array(bias.values))
      options.bias_count = bias.count
    }
    options.grammar = try grammar?.handle.with { $0 }
    options.progress_tokens = try field(progressTokens, "progressTokens")
    options.draft_tokens = try orOff(draftTokens, "draftTokens")
    options.priority = priority
    return options
  }

  /// 0 would be read as "default"; the library looks at the rest.
  private func nonzero(_ value: Float?, _ name: String) throws -> Float {
    if value == 0 { throw invalid("\(name) must not be 0") }
    return value ?? 0
  }

  /// -1 would be read as "off"; the library looks at the rest.
  private func notNegative(_ value: Float?, _ name: String) throws -> Float {
    if let value, value < 0 { throw invalid("\(name) must not be negative, not \(value)") }
    return value ?? 0
  }
}
