import CMlxrt
import Foundation

/// Throws what a function of the library returned; nil is success.
func check(_ error: OpaquePointer?) throws {
  guard let error else { return }
  defer { mlxrt_error_free(error) }
  throw MlxrtError(
    code: .init(rawValue: mlxrt_error_code(error)), message: String(cString: mlxrt_error_message(error)))
}

func invalid(_ message: String) -> MlxrtError { MlxrtError(code: .invalidArgument, message: message) }

/// What a function gives out as UTF-8, copied and freed.
func takeText(
  _ call: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>, UnsafeMutablePointer<Int>) -> OpaquePointer?
) throws -> Data {
  var text: UnsafeMutablePointer<CChar>?
  var length = 0
  try check(call(&text, &length))
  defer { mlxrt_free(text) }
  return text.map { Data(bytes: $0, count: length) } ?? Data()
}

/// The same as a string. The library's text is always UTF-8.
func takeString(
  _ call: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>, UnsafeMutablePointer<Int>) -> OpaquePointer?
) throws -> String {
  String(decoding: try takeText(call), as: UTF8.self)
}

/// The same as a decoded JSON value.
func takeJSON<T: Decodable>(
  _ type: T.Type,
  _ call: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>, UnsafeMutablePointer<Int>) -> OpaquePointer?
) throws -> T {
  let data = try takeText(call)
  do {
    return try JSONDecoder().decode(type, from: data)
  } catch {
    throw MlxrtError(code: .internal, message: "the library's JSON is not what was expected: \(error)")
  }
}

/// What a function gives out as token ids, copied and freed.
func takeTokens(
  _ call: (UnsafeMutablePointer<UnsafeMutablePointer<Int32>?>, UnsafeMutablePointer<Int>) -> OpaquePointer?
) throws -> [Int32] {
  var ids: UnsafeMutablePointer<Int32>?
  var count = 0
  try check(call(&ids, &count))
  defer { mlxrt_free(ids) }
  return Array(UnsafeBufferPointer(start: ids, count: ids == nil ? 0 : count))
}

/// Takes an array of floats that the library hands out.
func takeFloats(
  _ call: (UnsafeMutablePointer<UnsafeMutablePointer<Float>?>, UnsafeMutablePointer<Int>) -> OpaquePointer?
) throws -> [Float] {
  var floats: UnsafeMutablePointer<Float>?
  var count = 0
  try check(call(&floats, &count))
  defer { mlxrt_free(floats) }
  return Array(UnsafeBufferPointer(start: floats, count: floats == nil ? 0 : count))
}

func encodeJSON<T: Encodable>(_ value: T, _ name: String) throws -> String {
  do {
    let encoder = JSONEncoder()
    // The same value is the same text, so that a prompt that has it can be recognised.
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    return String(decoding: try encoder.encode(value), as: UTF8.self)
  } catch {
    throw invalid("\(name) cannot be written as JSON: \(error)")
  }
}

/// sizeof(T), for struct_size.
func structSize<T>(_ type: T.Type) -> UInt32 { UInt32(MemoryLayout<T>.size) }

/// Memory for what a C struct points to. It lives as long as the arena: `withExtendedLifetime`.
final class Arena {
  private var blocks: [UnsafeMutableRawPointer] = []

  deinit { for block in blocks { block.deallocate() } }

  func array<T: BitwiseCopyable>(_ values: some Collection<T>) -> UnsafeMutablePointer<T> {
    // At least one element: an empty array is no NULL.
    let block = UnsafeMutablePointer<T>.allocate(capacity: max(values.count, 1))
    blocks.append(UnsafeMutableRawPointer(block))
    _ = UnsafeMutableBufferPointer(start: block, count: values.count).update(fromContentsOf: values)
    return block
  }

  /// Text with its length in bytes; U+0000 may be in it.
  func text(_ text: String) -> (UnsafePointer<CChar>, Int) {
    let bytes = array(text.utf8.map { CChar(bitPattern: $0) })
    return (UnsafePointer(bytes), text.utf8.count)
  }

  /// A NUL-terminated path or name.
  func name(_ text: String, _ what: String) throws -> UnsafePointer<CChar> {
    if text.utf8.contains(0) { throw invalid("\(what) holds a NUL") }
    return UnsafePointer(array(text.utf8CString))
  }
}

/// A number of Swift's in the type of the C struct's field; never traps.
func field<T: FixedWidthInteger>(_ value: Int?, _ name: String, as type: T.Type = T.self) throws -> T {
  guard let value else { return 0 }
  guard let exact = T(exactly: value) else { throw invalid("\(name) must be from \(T.min) to \(T.max), not \(value)") }
  return exact
}

/// The same where the C ABI reads 0 as "default", so that a set 0 would mean something else.
func positive<T: FixedWidthInteger>(_ value: Int?, _ name: String, as type: T.Type = T.self) throws -> T {
  if let value, value <= 0 { throw invalid("\(name) must be greater than 0, not \(value)") }
  return try field(value, name)
}

/// A set 0 is `off`, as the C ABI reads 0 as "default".
func orOff<T: FixedWidthInteger & SignedInteger>(_ value: Int?, _ name: String, off: T = -1) throws -> T {
  if let value, value < 0 { throw invalid("\(name) must not be negative, not \(value)") }
  return value == 0 ? off : try field(value, name)
}

/// Milliseconds, rounded up; what is set is never "no limit".
func milliseconds(_ duration: Duration?, _ name: String) throws -> UInt32 {
  guard let duration else { return 0 }
  let (seconds, attoseconds) = duration.components
  if seconds < 0 || attoseconds < 0 { throw invalid("\(name) must not be negative") }
  let whole = seconds.multipliedReportingOverflow(by: 1000)
  let part = (attoseconds + 999_999_999_999_999) / 1_000_000_000_000_000
  let sum = whole.partialValue.addingReportingOverflow(part)
  if whole.overflow || sum.overflow || sum.partialValue >= Int64(MLXRT_FOREVER) {
    throw invalid("\(name) must be shorter than 49 days")
  }
  return max(UInt32(sum.partialValue), 1)
}
