// A sketch, never compiled: this project's machines have no FoundationModels. It shows how a `Session` answers Apple's
// `LanguageModelSession`: the framework hands the whole transcript over at each turn, which is what
// `Session.generate(_:tools:options:)` takes, and what the session holds already is not computed again. It is left out until
// somebody with the SDK defines MLXRT_FOUNDATION_MODELS.
#if canImport(FoundationModels) && compiler(>=6.4) && MLXRT_FOUNDATION_MODELS
  import FoundationModels

  /// A model folder as a language model of the FoundationModels framework:
  /// `LanguageModelSession(model: MlxrtLanguageModel(path: path))`.
  @available(iOS 27.0, macOS 27.0, *)
  public struct MlxrtLanguageModel: LanguageModel {
    /// What answers.
    public typealias Executor = MlxrtExecutor
    /// What it can do: text, for now.
    public let capabilities = LanguageModelCapabilities([])
    /// Which folder.
    public let executorConfiguration: MlxrtExecutor.Configuration

    /// The model of a folder.
    public init(path: String) { executorConfiguration = .init(path: path) }
  }

  /// Answers for a ``MlxrtLanguageModel``.
  @available(iOS 27.0, macOS 27.0, *)
  public final class MlxrtExecutor: LanguageModelExecutor {
    /// The model that it answers for.
    public typealias Model = MlxrtLanguageModel

    /// Which folder.
    public struct Configuration: Hashable, Sendable {
      /// A folder in mlx-lm's form.
      public let path: String
    }

    private let session: Task<Session, any Error>

    /// Begins to load.
    public init(configuration: Configuration) throws {
      session = Task { try Session(try await Mlxrt.Model.load(configuration.path)) }
    }

    /// The load has begun already.
    public func prewarm(model: Model, transcript: Transcript) {}

    /// Streams an answer to the transcript.
    public func respond(
      to request: LanguageModelExecutorGenerationRequest, model: Model,
      streamingInto channel: LanguageModelExecutorGenerationChannel
    ) async throws {
      let session = try await session.value
      for try await event in session.generate(messages(of: request.transcript)) {
        if case .text(let piece) = event {
          await channel.send(.response(action: .appendText(piece.text, tokenCount: piece.tokens.count)))
        }
      }
      try Task.checkCancellation()
    }

    private func messages(of transcript: Transcript) -> [Message] {
      transcript.compactMap { entry in
        switch entry {
        case .instructions(let instructions): .system(text(of: instructions.segments))
        case .prompt(let prompt): .user(text(of: prompt.segments))
        case .response(let response): .assistant(text(of: response.segments))
        default: nil
        }
      }
    }

    private func text(of segments: [Transcript.Segment]) -> String {
      segments.map { if case .text(let text) = $0 { text.content } else { "" } }.joined()
    }
  }
#endif
