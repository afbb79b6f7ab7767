import CMlxrt

extension Adapter {
  /// What an adapter is trained on: JSONL, each line an object with `messages` (and `tools`), with `prompt` and
  /// `completion`, or with `text`.
  public enum TrainingData: Sendable, Hashable {
    /// The lines.
    case lines(String)
    /// The path of a file of them.
    case file(String)
  }

  /// How an adapter is trained; what is nil is mlx-lm's default, with AdamW.
  public struct TrainingOptions: Sendable, Hashable {
    /// Who changes the weights.
    public enum Optimizer: Sendable, Hashable {
      /// Adam with decoupled weight decay.
      case adamW
      /// Adam.
      case adam
      /// Gradient descent without momentum.
      case sgd
    }

    /// How the learning rate goes.
    public enum Schedule: Sendable, Hashable {
      /// It stays.
      case constant
      /// It falls to 0 along half a cosine.
      case cosine
      /// It falls to 0 in even steps.
      case linear
    }

    /// What the loss is measured on besides; of the same kind (lines or file) as what is trained on.
    public var validation: TrainingData?
    /// Batches to train; nil = 1000.
    public var steps: Int?
    /// Samples in a batch; nil = 4.
    public var batchSize: Int?
    /// The most tokens of a sample, the rest is cut; nil = 2048.
    public var maxTokens: Int?
    /// Steps whose gradients are averaged for one update; nil = 1.
    public var accumulate: Int?
    /// Steps between events; nil = 10. A cancelled task stops the training at the next one.
    public var reportEvery: Int?
    /// Steps between validations, besides those at the first and the last step; nil = 200.
    public var validateEvery: Int?
    /// Steps between saves, besides the one at the end; nil = 100.
    public var saveEvery: Int?
    /// Updates over which the learning rate rises from 0.
    public var warmup: Int = 0
    /// The highest learning rate; nil = 1e-5.
    public var learningRate: Float?
    /// 0 = none; nil = 0.01 for AdamW and none for SGD.
    public var weightDecay: Float?
    /// Who changes the weights.
    public var optimizer = Optimizer.adamW
    /// How the learning rate goes.
    public var schedule = Schedule.constant
    /// Of the order of batches and of dropout: the same seed gives the same training.
    public var seed: UInt64 = 0
    /// A folder that the adapter is saved to.
    public var savePath: String?
    /// Only answers are trained, not prompts: of messages the last one.
    public var masksPrompt = false
    /// Gradient checkpointing: less memory, more computing.
    public var checkpoints = false

    /// All defaults.
    public init() {}
  }

  /// What happened in a training since the event before.
  public struct TrainingEvent: Sendable, Hashable {
    /// Steps done.
    public let step: UInt64
    /// Steps to do.
    public let steps: UInt64
    /// Tokens trained since the start.
    public let trainedTokens: UInt64
    /// Samples that are longer than ``TrainingOptions/maxTokens``.
    public let truncatedSamples: UInt64
    /// The most memory used since the start, in bytes.
    public let peakBytes: UInt64
    /// The mean of the steps.
    public let loss: Double
    /// The validation loss before this step; nil when it was not measured.
    public let validationLoss: Double?
    /// Tokens trained a second, without the time of validations, saves and callbacks.
    public let tokensPerSecond: Double
    /// Of the last update.
    public let learningRate: Double
  }

  /// Trains the adapter in place, on a thread of its own. Sessions that have it use its new weights from their next request
  /// on, and go on in between.
  ///
  /// When the task is cancelled, the training stops at its next event (``TrainingOptions/reportEvery``) with a
  /// `CancellationError`; the adapter keeps what it has learnt.
  ///
  /// - Parameters:
  ///   - data: what it learns.
  ///   - options: how.
  ///   - onEvent: hears how it goes, and may stop it; what it throws ends the training and comes out of here.
  public func train(
    on data: TrainingData, options: TrainingOptions = TrainingOptions(),
    onEvent: (@Sendable (TrainingEvent) throws -> Flow)? = nil
  ) async throws {
    try await Blocking.runCancellable { flag in
      let arena = Arena()
      var how = try options.make(data, arena)
      let box = CallbackBox<TrainingEvent>(flag) { try onEvent?($0) ?? .continue }
      try box.run {
        try withExtendedLifetime(arena) {
          try self.model.handle.with { model in
            try self.handle.with { adapter in
              try check(
                mlxrt_train(
                  model, adapter, &how,
                  { user, event in
                    CallbackBox<TrainingEvent>.from(user)?.hear(TrainingEvent(event.pointee))
                      ?? MLXRT_RETURN_CONTINUE
                  }, box.pointer))
            }
          }
        }
      }
    }
  }
}

extension Adapter.TrainingEvent {
  fileprivate init(_ event: mlxrt_train_event) {
    step = event.step
    steps = event.steps
    trainedTokens = event.trained_tokens
    truncatedSamples = event.truncated_samples
    peakBytes = event.peak_bytes
    loss = event.loss
    validationLoss = event.validation_loss.isNaN ? nil : event.validation_loss
    tokensPerSecond = event.tokens_per_second
    learningRate = event.learning_rate
  }
}

extension Adapter.TrainingOptions {
  fileprivate func make(_ data: Adapter.TrainingData, _ arena: Arena) throws -> mlxrt_train_options {
    var options = mlxrt_train_options()
    options.struct_size = structSize(mlxrt_train_options.self)
    switch (data, validation) {
    case (.lines(let train), nil): (options.train, options.train_len) = arena.text(train)
    case (.lines(let train), .lines(let valid)):
      (options.train, options.train_len) = arena.text(train)
      (options.valid, options.valid_len) = arena.text(valid)
    case (.file(let train), nil):
      options.flags |= MLXRT_TRAIN_PATHS
      (options.train, options.train_len) = arena.text(train)
    case (.file(let train), .file(let valid)):
      options.flags |= MLXRT_TRAIN_PATHS
      (options.train, options.train_len) = arena.text(train)
      (options.valid, options.valid_len) = arena.text(valid)
    default: throw invalid("validation must be lines where the training data is, and a file where that is one")
    }
    if masksPrompt { options.flags |= MLXRT_TRAIN_MASK_PROMPT }
    if checkpoints { options.flags |= MLXRT_TRAIN_CHECKPOINT }
    options.steps = try positive(steps, "steps")
    options.batch_size = try positive(batchSize, "batchSize")
    options.max_tokens = try positive(maxTokens, "maxTokens")
    options.accumulate = try positive(accumulate, "accumulate")
    options.report_every = try positive(reportEvery, "reportEvery")
    options.validate_every = try positive(validateEvery, "validateEvery")
    options.save_every = try positive(saveEvery, "saveEvery")
    options.warmup = try field(warmup, "warmup")
    if learningRate == 0 { throw invalid("learningRate must not be 0") }
    options.learning_rate = learningRate ?? 0
    if let weightDecay, weightDecay < 0 { throw invalid("weightDecay must not be negative, not \(weightDecay)") }
    options.weight_decay = weightDecay == 0 ? -1 : weightDecay ?? 0
    switch optimizer {
    case .adamW: options.optimizer = MLXRT_OPTIMIZER_ADAMW
    case .adam: options.optimizer = MLXRT_OPTIMIZER_ADAM
    case .sgd: options.optimizer = MLXRT_OPTIMIZER_SGD
    }
    switch schedule {
    case .constant: options.schedule = MLXRT_SCHEDULE_CONSTANT
    case .cosine: options.schedule = MLXRT_SCHEDULE_COSINE
    case .linear: options.schedule = MLXRT_SCHEDULE_LINEAR
    }
    options.seed = seed
    options.save_path = try savePath.map { try arena.name($0, "savePath") }
    return options
  }
}
