import CMlxrt

/// What went wrong: a code, and one sentence that names the file, key or argument.
///
/// Everything in this package that the library refuses throws this. What your own callbacks throw comes out as it is, and a
/// cancelled task gets a `CancellationError`.
public struct MlxrtError: Error, Sendable, Hashable {
  /// What kind of failure it is.
  public let code: Code
  /// One sentence that names the file, key or argument.
  public let message: String

  /// An error with a code and a sentence.
  public init(code: Code, message: String) {
    self.code = code
    self.message = message
  }

  /// The kinds of failure. Later versions of the library may add some, which arrive as ``unknown(_:)``.
  public enum Code: Sendable, Hashable {
    /// An argument is wrong; the message names it, and the fix where there is one.
    case invalidArgument
    /// The object has been closed.
    case invalidHandle
    /// A file, folder or named thing does not exist.
    case notFound
    /// A file exists and cannot be read or written.
    case io
    /// A model folder is damaged or contradicts itself.
    case badModel
    /// Two things are valid, but not together.
    case incompatible
    /// Valid perhaps, but not known to this version of the library.
    case unsupported
    /// Memory, or the budget set for it, does not suffice.
    case outOfMemory
    /// The prompt does not fit into the session's context.
    case contextFull
    /// Something else uses the object just now; try again later.
    case busy
    /// The call was ended by a cancel, a callback or the close of its object.
    case cancelled
    /// The time given was not enough.
    case timeout
    /// The library is suspended and the call needs the device.
    case suspended
    /// The device or its driver failed.
    case device
    /// A file that belongs to the library was not found.
    case resources
    /// A grammar cannot be compiled.
    case badGrammar
    /// The function may not be called from inside this callback.
    case reentrant
    /// The process has forked since its first call; only the parent may use the library.
    case forked
    /// A bug in the library, caught; the message says where.
    case `internal`
    /// A code that this package does not know, of a newer library.
    case unknown(Int32)
  }
}

extension MlxrtError.Code: RawRepresentable, CustomStringConvertible {
  // Both ways are written out: comparing codes here would call `rawValue` again.

  /// The code of a number of the C ABI, `MLXRT_E_*`.
  public init(rawValue: Int32) {
    switch rawValue {
    case MLXRT_E_INVALID_ARGUMENT: self = .invalidArgument
    case MLXRT_E_INVALID_HANDLE: self = .invalidHandle
    case MLXRT_E_NOT_FOUND: self = .notFound
    case MLXRT_E_IO: self = .io
    case MLXRT_E_BAD_MODEL: self = .badModel
    case MLXRT_E_INCOMPATIBLE: self = .incompatible
    case MLXRT_E_UNSUPPORTED: self = .unsupported
    case MLXRT_E_OUT_OF_MEMORY: self = .outOfMemory
    case MLXRT_E_CONTEXT_FULL: self = .contextFull
    case MLXRT_E_BUSY: self = .busy
    case MLXRT_E_CANCELLED: self = .cancelled
    case MLXRT_E_TIMEOUT: self = .timeout
    case MLXRT_E_SUSPENDED: self = .suspended
    case MLXRT_E_DEVICE: self = .device
    case MLXRT_E_RESOURCES: self = .resources
    case MLXRT_E_BAD_GRAMMAR: self = .badGrammar
    case MLXRT_E_REENTRANT: self = .reentrant
    case MLXRT_E_FORKED: self = .forked
    case MLXRT_E_INTERNAL: self = .internal
    default: self = .unknown(rawValue)
    }
  }

  /// The number that the C ABI has for it, `MLXRT_E_*`.
  public var rawValue: Int32 {
    switch self {
    case .invalidArgument: MLXRT_E_INVALID_ARGUMENT
    case .invalidHandle: MLXRT_E_INVALID_HANDLE
    case .notFound: MLXRT_E_NOT_FOUND
    case .io: MLXRT_E_IO
    case .badModel: MLXRT_E_BAD_MODEL
    case .incompatible: MLXRT_E_INCOMPATIBLE
    case .unsupported: MLXRT_E_UNSUPPORTED
    case .outOfMemory: MLXRT_E_OUT_OF_MEMORY
    case .contextFull: MLXRT_E_CONTEXT_FULL
    case .busy: MLXRT_E_BUSY
    case .cancelled: MLXRT_E_CANCELLED
    case .timeout: MLXRT_E_TIMEOUT
    case .suspended: MLXRT_E_SUSPENDED
    case .device: MLXRT_E_DEVICE
    case .resources: MLXRT_E_RESOURCES
    case .badGrammar: MLXRT_E_BAD_GRAMMAR
    case .reentrant: MLXRT_E_REENTRANT
    case .forked: MLXRT_E_FORKED
    case .internal: MLXRT_E_INTERNAL
    case .unknown(let code): code
    }
  }

  /// The library's name for it, such as `INVALID_ARGUMENT`.
  public var description: String {
    if case .unknown(let code) = self { return "UNKNOWN(\(code))" }
    return String(cString: mlxrt_code_name(rawValue))
  }
}

extension MlxrtError: CustomStringConvertible {
  /// The name of the code and the message.
  public var description: String { "\(code): \(message)" }
}
