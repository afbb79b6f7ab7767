// The C functions in an app's own Swift, through a bridging header and without the package. README.md says how to build it.
import Foundation

/// Throws what a call returned; nil is success.
func check(_ error: OpaquePointer?) throws {
  guard let error else { return }
  defer { mlxrt_error_free(error) }
  throw Failure(code: mlxrt_error_code(error), message: String(cString: mlxrt_error_message(error)))
}

struct Failure: Error {
  let code: Int32
  let message: String
}

func answer(_ path: String, _ messages: String) throws {
  var model: OpaquePointer?
  var session: OpaquePointer?
  defer {
    mlxrt_session_free(session)
    mlxrt_model_free(model)
  }
  try check(mlxrt_model_load(path, nil, &model))
  try check(mlxrt_session_create(model!, nil, &session))
  var options = mlxrt_generate_options()
  options.struct_size = UInt32(MemoryLayout<mlxrt_generate_options>.size)
  options.max_tokens = 40
  var result = mlxrt_result()
  result.struct_size = UInt32(MemoryLayout<mlxrt_result>.size)
  try messages.withCString { text in
    var input = mlxrt_input()
    input.struct_size = UInt32(MemoryLayout<mlxrt_input>.size)
    input.messages = text
    input.messages_len = MLXRT_NTS
    try check(
      mlxrt_generate(
        session!, &input, &options,
        { _, event in
          let bytes = UnsafeRawBufferPointer(start: event.pointee.text, count: event.pointee.text_len)
          print(String(decoding: bytes, as: UTF8.self), terminator: "")
          return MLXRT_RETURN_CONTINUE
        }, nil, &result))
  }
  print("\n\(result.generated_tokens) tokens")
}

do {
  try answer(
    CommandLine.arguments.dropFirst().first ?? "model", #"[{"role": "user", "content": "What is the capital of France?"}]"#)
} catch let failure as Failure {
  FileHandle.standardError.write(Data("error \(failure.code): \(failure.message)\n".utf8))
  exit(1)
}
