import CMlxrt

extension Model {
  /// What of a text's tokens becomes its embedding.
  public enum Pooling: Sendable, Hashable {
    /// What the model's folder says; else the last token, of an encoder the mean.
    case model
    /// The mean of all tokens' last hidden states.
    case mean
    /// The last token's.
    case last
    /// The first token's.
    case cls

    var rawValue: Int32 {
      switch self {
      case .model: MLXRT_POOLING_MODEL
      case .mean: MLXRT_POOLING_MEAN
      case .last: MLXRT_POOLING_LAST
      case .cls: MLXRT_POOLING_CLS
      }
    }
  }

  /// Turns texts into embeddings, one for each, on a thread of its own: as the model's folder says where it has
  /// sentence-transformers' files. It puts the folder's default prompt in front of each text; any other ("query: ") is the caller's
  /// to put there.
  ///
  /// - Parameters:
  ///   - texts: what to embed; one that is too long for the model is an error, and none is cut.
  ///   - pooling: what of the tokens.
  ///   - normalize: whether each embedding gets the length 1, whatever the folder says.
  ///   - timeout: after which it ends with ``MlxrtError/Code/timeout``.
  ///   - progress: hears how far it is, in tokens; what it throws ends the call.
  /// - Throws: ``MlxrtError`` that names the text; `CancellationError` when the task is cancelled, which ends the call.
  public func embed(
    _ texts: [String], pooling: Pooling = .model, normalize: Bool = false, timeout: Duration? = nil,
    progress: ProgressCallback? = nil
  ) async throws -> [[Float]] {
    try await Blocking.runCancellable { flag in
      let arena = Arena()
      let box = ProgressBox(progress: progress, flag)
      var options = mlxrt_embed_options()
      options.struct_size = structSize(mlxrt_embed_options.self)
      options.pooling = pooling.rawValue
      if normalize { options.flags |= MLXRT_EMBED_NORMALIZE }
      options.timeout_ms = try milliseconds(timeout, "timeout")
      options.progress = ProgressBox.function
      options.progress_data = box.pointer
      let given = texts.map { arena.text($0) }
      let pointers = arena.array(given.map(\.0))
      let lengths = arena.array(given.map(\.1))
      var out = mlxrt_tensor()
      out.struct_size = structSize(mlxrt_tensor.self)
      defer { mlxrt_free(out.data) }
      try box.run {
        try withExtendedLifetime(arena) {
          try self.handle.with { try check(mlxrt_embed($0, pointers, lengths, texts.count, &options, &out)) }
        }
      }
      let bytes = UnsafeRawBufferPointer(start: out.data, count: Int(out.bytes))
      let values = bytes.bindMemory(to: Float.self)
      let width = values.count / max(texts.count, 1)
      return (0..<texts.count).map { Array(values[($0 * width)..<(($0 + 1) * width)]) }
    }
  }
}
