import CMlxrt
import Foundation

/// Low-rank changes beside one model's weights. Any task may use it, several at once; sessions that have it applied keep
/// what they need of it.
public final class Adapter: Sendable {
  let handle: Handle
  /// The model that it is for.
  public let model: Model

  /// What changes: y = base(x) + scale * ((x A) B).
  public enum Kind: Sendable, Hashable {
    /// Just that.
    case lora
    /// The same, each row of the adapted weight brought to a learned length.
    case dora

    var value: Int32 { self == .lora ? MLXRT_LORA : MLXRT_DORA }
  }

  /// How an adapter is made.
  public struct Options: Sendable, Hashable {
    /// LoRA or DoRA.
    public var kind: Kind
    /// Columns of A and rows of B; nil = 8.
    public var rank: Int?
    /// What (x A) B is multiplied by; nil = 20.
    public var scale: Float?
    /// The share of the input's elements that training leaves out, below 1.
    public var dropout: Float
    /// The last so many blocks; nil = all.
    public var layers: Int?
    /// The type of its weights.
    public var dtype: DType
    /// The same seed gives the same A.
    public var seed: UInt64
    /// Names of modules, such as `q_proj` or `mlp.gate_proj`; nil = `q_proj` and `v_proj`.
    public var keys: [String]?

    /// All defaults, or some of them.
    public init(
      kind: Kind = .lora, rank: Int? = nil, scale: Float? = nil, dropout: Float = 0, layers: Int? = nil,
      dtype: DType = .float32, seed: UInt64 = 0, keys: [String]? = nil
    ) {
      self.kind = kind
      self.rank = rank
      self.scale = scale
      self.dropout = dropout
      self.layers = layers
      self.dtype = dtype
      self.seed = seed
      self.keys = keys
    }

    func make(_ arena: Arena) throws -> mlxrt_adapter_options {
      var options = mlxrt_adapter_options()
      options.struct_size = structSize(mlxrt_adapter_options.self)
      options.kind = kind.value
      options.rank = try positive(rank, "rank")
      if scale == 0 { throw invalid("scale must not be 0") }
      options.scale = scale ?? 0
      options.dropout = dropout
      options.layers = try positive(layers, "layers")
      options.dtype = dtype.value
      options.seed = seed
      if let keys {
        if keys.isEmpty { throw invalid("keys must not be empty") }
        options.keys = UnsafePointer(arena.array(try keys.map { try arena.name($0, "keys") }))
        options.key_count = keys.count
      }
      return options
    }
  }

  private init(_ pointer: OpaquePointer?, _ model: Model) {
    self.model = model
    handle = Handle(pointer, "adapter") { mlxrt_adapter_free($0) }
  }

  /// Makes a new adapter, which changes nothing until it is trained: A is random, B is zero.
  public static func create(for model: Model, options: Options = Options()) async throws -> Adapter {
    try await Blocking.run {
      let arena = Arena()
      var how = try options.make(arena)
      var pointer: OpaquePointer?
      try withExtendedLifetime(arena) {
        try model.handle.with { try check(mlxrt_adapter_create($0, &how, &pointer)) }
      }
      return Adapter(pointer, model)
    }
  }

  /// Loads an adapter, of mlx-lm, of PEFT, or with rank and alpha at the top of its config.
  ///
  /// - Parameters:
  ///   - path: a folder, or a `.safetensors` file with its `adapter_config.json` beside it.
  ///   - model: what it is for.
  ///   - timeout: after which loading ends with ``MlxrtError/Code/timeout``.
  ///   - progress: hears how far it is; what it throws ends the loading.
  public static func load(
    _ path: String, for model: Model, timeout: Duration? = nil, progress: ProgressCallback? = nil
  ) async throws -> Adapter {
    try await fileCall(path, timeout, progress) { path, how in
      var pointer: OpaquePointer?
      try model.handle.with { try check(mlxrt_adapter_load($0, path, how, &pointer)) }
      return Adapter(pointer, model)
    }
  }

  /// Writes a folder in mlx-lm's format, which mlx-lm and this library load. What was there is replaced only when
  /// everything is on the disk.
  public func save(to path: String, timeout: Duration? = nil, progress: ProgressCallback? = nil) async throws {
    try await fileCall(path, timeout, progress) { path, how in
      try self.handle.with { try check(mlxrt_adapter_save($0, path, how)) }
    }
  }

  /// Several adapters, open during `body`; there are nil or as many scales.
  static func withPointers<T>(
    _ adapters: [Adapter], _ scales: [Float]?, _ body: ([OpaquePointer]) throws -> T
  ) throws -> T {
    if let scales, scales.count != adapters.count {
      throw invalid("there are \(scales.count) scales for \(adapters.count) adapters")
    }
    func collect(_ rest: ArraySlice<Adapter>, _ pointers: [OpaquePointer]) throws -> T {
      guard let adapter = rest.first else { return try body(pointers) }
      return try adapter.handle.with { try collect(rest.dropFirst(), pointers + [$0]) }
    }
    return try collect(adapters[...], [])
  }

  /// Gives the adapter up, and comes back when that is done. Sessions that have it keep what they need of it; everything
  /// else on it is an ``MlxrtError/Code/invalidHandle`` from then on.
  public func close() async { await handle.close() }

  /// What an adapter is. What is not here is in ``json``.
  public struct Info: Sendable, Hashable, Decodable {
    /// `lora`, `dora` or `full`.
    public let kind: String
    /// How many numbers it has.
    public let parameters: Int
    /// Bytes of them.
    public let bytes: Int
    /// Its tensors, by name.
    public let tensors: [TensorInfo]
    /// All that the library tells of it: also `format`, `rank`, `scale` and `dropout`.
    public let json: JSONValue

    /// One tensor.
    public struct TensorInfo: Sendable, Hashable, Decodable {
      /// Its name, such as `model.layers.0.self_attn.q_proj.lora_a`.
      public let name: String
      /// Its dimensions.
      public let shape: [Int]
      /// The type of its elements, such as `F32`.
      public let dtype: String
    }

    private enum CodingKeys: String, CodingKey { case kind, parameters, bytes, tensors }

    /// Reads the library's JSON.
    public init(from decoder: any Decoder) throws {
      let container = try decoder.container(keyedBy: CodingKeys.self)
      kind = try container.decode(String.self, forKey: .kind)
      parameters = try container.decode(Int.self, forKey: .parameters)
      bytes = try container.decode(Int.self, forKey: .bytes)
      tensors = try container.decode([TensorInfo].self, forKey: .tensors)
      json = try JSONValue(from: decoder)
    }
  }

  /// What the adapter is.
  public func info() throws -> Info {
    try handle.with { adapter in try takeJSON(Info.self) { mlxrt_adapter_info(adapter, $0, $1) } }
  }

  /// A copy of one tensor, by its name in ``info()``.
  public func tensor(_ name: String) async throws -> Tensor {
    try await Blocking.run {
      let arena = Arena()
      let name = try arena.name(name, "name")
      return try withExtendedLifetime(arena) {
        try self.handle.with { adapter in try Tensor { mlxrt_adapter_get(adapter, name, $0) } }
      }
    }
  }

  /// Replaces one tensor, from the next request on: of the same shape, finite.
  public func setTensor(_ name: String, to tensor: Tensor) async throws {
    try await Blocking.run {
      let arena = Arena()
      let name = try arena.name(name, "name")
      var view = mlxrt_tensor_view()
      view.struct_size = structSize(mlxrt_tensor_view.self)
      view.dtype = MLXRT_DTYPE_F32
      view.rank = try field(tensor.shape.count, "the number of dimensions")
      try setShape(&view.shape, tensor.shape)
      view.data = UnsafeRawPointer(arena.array(tensor.values))
      view.bytes = UInt64(tensor.values.count * MemoryLayout<Float>.size)
      try withExtendedLifetime(arena) {
        try self.handle.with { try check(mlxrt_adapter_set($0, name, &view)) }
      }
    }
  }
}

/// Types of elements.
public enum DType: Sendable, Hashable {
  /// 32-bit floats.
  case float32
  /// 16-bit floats.
  case float16
  /// bfloat16.
  case bfloat16

  var value: Int32 {
    switch self {
    case .float32: MLXRT_DTYPE_F32
    case .float16: MLXRT_DTYPE_F16
    case .bfloat16: MLXRT_DTYPE_BF16
    }
  }
}

/// A tensor of 32-bit floats, row-major.
public struct Tensor: Sendable, Hashable {
  /// Its dimensions, at most eight.
  public var shape: [Int]
  /// Its elements: the product of the dimensions.
  public var values: [Float]

  /// A tensor of these elements.
  public init(shape: [Int], values: [Float]) {
    self.shape = shape
    self.values = values
  }

  /// Takes the tensor that a call hands out.
  init(_ call: (UnsafeMutablePointer<mlxrt_tensor>) -> OpaquePointer?) throws {
    var out = mlxrt_tensor()
    out.struct_size = structSize(mlxrt_tensor.self)
    try check(call(&out))
    defer { mlxrt_free(out.data) }
    let bytes = UnsafeRawBufferPointer(start: out.data, count: Int(out.bytes))
    self.init(shape: dimensions(&out.shape, out.rank), values: Array(bytes.bindMemory(to: Float.self)))
  }
}

/// A C array in a struct is a tuple here.
private typealias Shape = (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64)

private func dimensions(_ tuple: inout Shape, _ rank: UInt32) -> [Int] {
  withUnsafeBytes(of: &tuple) { $0.bindMemory(to: UInt64.self).prefix(Int(rank)).map { Int($0) } }
}

private func setShape(_ tuple: inout Shape, _ shape: [Int]) throws {
  let dimensions = try shape.map { try field($0, "a dimension", as: UInt64.self) }
  withUnsafeMutableBytes(of: &tuple) { bytes in
    for (slot, dimension) in zip(bytes.bindMemory(to: UInt64.self).indices, dimensions) {
      bytes.storeBytes(of: dimension, toByteOffset: slot * MemoryLayout<UInt64>.stride, as: UInt64.self)
    }
  }
}
