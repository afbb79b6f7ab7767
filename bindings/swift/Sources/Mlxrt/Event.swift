import CMlxrt
import Foundation

/// What a generation produces.
public enum Event: Sendable, Hashable {
  /// The input is being taken in: so many of so many tokens. Only with ``GenerateOptions/progressTokens``.
  case progress(done: UInt64, total: UInt64)
  /// A piece of the answer.
  case text(Piece)
  /// A piece of the model's thinking.
  case thinking(Piece)
  /// The model calls a tool.
  case toolCall(ToolCall, Piece)
  /// A piece of a call that is not complete. Only with ``GenerateOptions/Flags/toolDeltas``; ``toolCall(_:_:)`` follows, or text
  /// where it was no call.
  case toolDelta(ToolDelta)
  /// It has ended: the last event of every request that did not fail, unless the task was cancelled.
  case finished(GenerationResult)

  /// A piece of text with the tokens that it completes.
  public struct Piece: Sendable, Hashable {
    /// Whole characters of Unicode; empty where a token is incomplete, or ends the text.
    public let text: String
    /// The tokens that this event completes. Those of all events joined are all generated tokens.
    public let tokens: [Int32]
    /// With ``GenerateOptions/logprobs``: the log-probability of each token.
    public let logprobs: [Float]
    /// With ``GenerateOptions/logprobs`` above 0: the likeliest tokens at the place of each token.
    public let alternatives: [[Alternative]]
  }

  /// A piece of a call.
  public struct ToolDelta: Sendable, Hashable, Decodable {
    /// Which call of the answer, from 0.
    public let index: Int
    /// The call's, with its first piece.
    public let id: String?
    /// The tool's, with its first piece.
    public let name: String?
    /// All pieces together are the text of the arguments' JSON.
    public let arguments: String
  }

  /// A token that might have been there.
  public struct Alternative: Sendable, Hashable {
    /// Its id.
    public let token: Int32
    /// Its log-probability.
    public let logprob: Float
  }

  /// The text, where this is a piece of the answer.
  public var answerText: String? {
    if case .text(let piece) = self { piece.text } else { nil }
  }

  /// The event that the library handed out, copied; nil for a kind that this version does not know.
  init?(_ event: UnsafePointer<mlxrt_event>) {
    let kind = event.pointee.kind
    if kind == MLXRT_EVENT_PROGRESS {
      self = .progress(done: event.pointee.done, total: event.pointee.total)
      return
    }
    let piece = Piece(event.pointee)
    switch kind {
    case MLXRT_EVENT_TEXT: self = .text(piece)
    case MLXRT_EVENT_THINKING: self = .thinking(piece)
    case MLXRT_EVENT_TOOL_CALL:
      // The library sends only what parses; what it did not parse is text.
      guard let call = try? JSONDecoder().decode(ToolCall.self, from: Data(piece.text.utf8)) else {
        self = .text(piece)
        return
      }
      self = .toolCall(call, piece)
    case MLXRT_EVENT_TOOL_DELTA:
      guard let delta = try? JSONDecoder().decode(ToolDelta.self, from: Data(piece.text.utf8)) else { return nil }
      self = .toolDelta(delta)
    default: return nil
    }
  }
}

extension Event.Piece {
  init(_ event: mlxrt_event) {
    let bytes = UnsafeRawBufferPointer(start: event.text, count: event.text_len)
    text = event.text_len == 0 ? "" : String(decoding: bytes, as: UTF8.self)
    let count = event.token_count
    tokens = event.tokens.map { Array(UnsafeBufferPointer(start: $0, count: count)) } ?? []
    logprobs = event.logprobs.map { Array(UnsafeBufferPointer(start: $0, count: count)) } ?? []
    if let ids = event.top_tokens, let values = event.top_logprobs {
      let top = event.top_count
      alternatives = (0..<count).map { token in
        (0..<top).map { Event.Alternative(token: ids[token * top + $0], logprob: values[token * top + $0]) }
      }
    } else {
      alternatives = []
    }
  }
}

/// Why a generation ended. All of these are results and no errors.
public enum StopReason: Sendable, Hashable {
  /// The model ended its answer.
  case endOfText
  /// A stop string appeared: the one with this index.
  case stopString(Int)
  /// A stop token appeared: the one with this index.
  case stopToken(Int)
  /// So many tokens were generated as were asked for.
  case length
  /// The session's context is full.
  case context
  /// The callback asked for it.
  case callback
  /// A cancel, the close of the session, or a forced shutdown.
  case cancelled
  /// The time given has passed.
  case timeout
  /// The model called a tool and waits for its answer.
  case toolCall
  /// The grammar allows nothing more.
  case grammar
  /// The request failed with this code.
  case error(MlxrtError.Code)
  /// A reason that this package does not know, of a newer library.
  case unknown(Int32)

  init(_ result: mlxrt_result) {
    switch result.stop {
    case MLXRT_STOPPED_EOS: self = .endOfText
    case MLXRT_STOPPED_STRING: self = .stopString(Int(result.stop_index))
    case MLXRT_STOPPED_TOKEN: self = .stopToken(Int(result.stop_index))
    case MLXRT_STOPPED_LENGTH: self = .length
    case MLXRT_STOPPED_CONTEXT: self = .context
    case MLXRT_STOPPED_CALLBACK: self = .callback
    case MLXRT_STOPPED_CANCELLED: self = .cancelled
    case MLXRT_STOPPED_TIMEOUT: self = .timeout
    case MLXRT_STOPPED_TOOL_CALL: self = .toolCall
    case MLXRT_STOPPED_GRAMMAR: self = .grammar
    case MLXRT_STOPPED_ERROR: self = .error(.init(rawValue: result.error_code))
    default: self = .unknown(result.stop)
    }
  }
}

/// How a generation ended and what it cost.
public struct GenerationResult: Sendable, Hashable {
  /// Why it ended.
  public let stop: StopReason
  /// The seed that was used.
  public let seed: UInt64
  /// Tokens before the first generated one: what the session held of it, and the input.
  public let promptTokens: UInt64
  /// Of ``promptTokens``: those not computed now, since the session or a cache had them.
  public let cachedTokens: UInt64
  /// Tokens delivered, thinking included.
  public let generatedTokens: UInt64
  /// Of ``generatedTokens``: those of thinking.
  public let thinkingTokens: UInt64
  /// Tokens that the draft model guessed.
  public let draftedTokens: UInt64
  /// Of ``draftedTokens``: those that were right.
  public let acceptedTokens: UInt64
  /// From the call until the engine began.
  public let queueTime: Duration
  /// In which the input was taken in.
  public let prefillTime: Duration
  /// From the call until the first token; nil when there was none.
  public let timeToFirstToken: Duration?
  /// From the first token to the last one.
  public let decodeTime: Duration
  /// From the call to its end.
  public let totalTime: Duration
  /// The most bytes in use at once during the call.
  public let peakBytes: UInt64
  /// Bytes in use at its end.
  public let activeBytes: UInt64
  /// Bytes of the session's keys and values at its end.
  public let kvBytes: UInt64

  /// Tokens a second after the first one; nil where there are not two.
  public var tokensPerSecond: Double? {
    let seconds = decodeTime / .seconds(1)
    return generatedTokens > 1 && seconds > 0 ? Double(generatedTokens - 1) / seconds : nil
  }

  init(_ result: mlxrt_result) {
    stop = StopReason(result)
    seed = result.seed
    promptTokens = result.prompt_tokens
    cachedTokens = result.cached_tokens
    generatedTokens = result.generated_tokens
    thinkingTokens = result.thinking_tokens
    draftedTokens = result.drafted
    acceptedTokens = result.accepted
    queueTime = Duration(result.queue_ns)
    prefillTime = Duration(result.prefill_ns)
    timeToFirstToken = result.first_token_ns == 0 ? nil : Duration(result.first_token_ns)
    decodeTime = Duration(result.decode_ns)
    totalTime = Duration(result.total_ns)
    peakBytes = result.peak_bytes
    activeBytes = result.active_bytes
    kvBytes = result.kv_bytes
  }
}

extension Duration {
  init(_ nanoseconds: UInt64) { self = .nanoseconds(Int64(clamping: nanoseconds)) }
}
