import CMlxrt
import Foundation

/// What answers of one model must match: ``GenerateOptions/grammar``. Any task may use it, and any number of requests follow
/// one at once.
public final class Grammar: Sendable, Hashable {
  let handle: Handle
  /// The model that it is for.
  public let model: Model

  /// What a grammar is written in.
  public enum Source: Sendable, Hashable {
    /// Any JSON object or list.
    case json
    /// A JSON schema.
    case jsonSchema(String)
    /// A regular expression that the whole answer matches.
    case regex(String)
    /// A context-free grammar in Lark's syntax.
    case lark(String)

    var kind: Int32 {
      switch self {
      case .json: MLXRT_GRAMMAR_JSON
      case .jsonSchema: MLXRT_GRAMMAR_JSON_SCHEMA
      case .regex: MLXRT_GRAMMAR_REGEX
      case .lark: MLXRT_GRAMMAR_LARK
      }
    }

    var text: String {
      switch self {
      case .json: ""
      case .jsonSchema(let text), .regex(let text), .lark(let text): text
      }
    }
  }

  private init(_ pointer: OpaquePointer?, _ model: Model) {
    self.model = model
    handle = Handle(pointer, "grammar") { mlxrt_grammar_free($0) }
  }

  /// Compiles a grammar for the model's tokens. What cannot be followed is ``MlxrtError/Code/badGrammar``, and the message
  /// names it.
  public static func compile(_ source: Source, for model: Model, timeout: Duration? = nil) async throws -> Grammar {
    try await Blocking.run {
      let arena = Arena()
      let (text, length) = arena.text(source.text)
      var options = mlxrt_call_options()
      options.struct_size = structSize(mlxrt_call_options.self)
      options.timeout_ms = try milliseconds(timeout, "timeout")
      var pointer: OpaquePointer?
      try withExtendedLifetime(arena) {
        try model.handle.with { try check(mlxrt_grammar_compile($0, source.kind, text, length, &options, &pointer)) }
      }
      return Grammar(pointer, model)
    }
  }

  /// Gives the grammar up, and comes back when that is done. Requests that follow it go on.
  public func close() async { await handle.close() }

  /// Whether they are the same object.
  public static func == (one: Grammar, other: Grammar) -> Bool { one === other }
  /// By identity.
  public func hash(into hasher: inout Hasher) { hasher.combine(ObjectIdentifier(self)) }
}
