// A chat in the terminal: mlxrt-chat [MODEL]. An empty line or the end of the input ends it.
import Foundation
import Mlxrt

let path = CommandLine.arguments.dropFirst().first ?? "model"
do {
  let session = try Session(try await Model.load(path))
  var messages: [Message] = []
  print("> ", terminator: "")
  fflush(nil)
  while let line = readLine(), !line.isEmpty {
    messages.append(.user(line))
    for try await event in session.generate(messages, options: GenerateOptions(maxTokens: 200)) {
      switch event {
      case .text(let piece): print(piece.text, terminator: "")
      case .finished(let result):
        let speed = result.tokensPerSecond.map { String(format: ", %.1f tokens/s", $0) } ?? ""
        print("\n[\(result.generatedTokens) tokens\(speed), \(result.cachedTokens) of \(result.promptTokens) reused]")
      default: break
      }
      fflush(nil)
    }
    messages.append(try session.message())
    print("> ", terminator: "")
    fflush(nil)
  }
  print()
} catch {
  FileHandle.standardError.write(Data("mlxrt-chat: \(error)\n".utf8))
  exit(1)
}
