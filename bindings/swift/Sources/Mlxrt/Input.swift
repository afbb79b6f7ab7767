import CMlxrt

/// What goes into a session: text or tokens that continue it, or a whole conversation.
public struct Input: Sendable, Hashable {
  enum Content: Sendable, Hashable {
    case text(String)
    case tokens([Int32])
    case messages([Message], tools: [Tool], choice: ToolChoice, templateArguments: [String: JSONValue])
    case json(messages: String, tools: String?, choice: ToolChoice, templateArguments: String?)
  }

  var content: Content
  /// What is done differently from the default.
  public var flags: Flags = []

  /// How the input is read.
  public struct Flags: OptionSet, Sendable, Hashable {
    /// The bits of the C ABI, `MLXRT_INPUT_*`.
    public let rawValue: UInt32
    /// Bits of the C ABI.
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    /// Text at token 0 gets no BOS. Without this it gets the tokenizer's, unless it is there.
    public static let noBOS = Flags(rawValue: MLXRT_INPUT_NO_BOS)
    /// Text: special tokens are not recognised.
    public static let specialAsText = Flags(rawValue: MLXRT_INPUT_SPECIAL_AS_TEXT)
    /// Messages: special tokens inside message content are recognised. By default they never are, so content cannot forge
    /// a turn.
    public static let trustContent = Flags(rawValue: MLXRT_INPUT_TRUST_CONTENT)
    /// Messages: do not open the assistant's turn.
    public static let noGenerationPrompt = Flags(rawValue: MLXRT_INPUT_NO_GENERATION_PROMPT)
    /// Messages: continue the last message, which must be the assistant's.
    public static let continueLast = Flags(rawValue: MLXRT_INPUT_CONTINUE_LAST)
  }

  /// Text that continues the session.
  public static func text(_ text: String, flags: Flags = []) -> Input { Input(content: .text(text), flags: flags) }

  /// Token ids that continue the session.
  public static func tokens(_ tokens: [Int32], flags: Flags = []) -> Input {
    Input(content: .tokens(tokens), flags: flags)
  }

  /// A conversation: the whole history. What the session already holds of it is not computed again.
  ///
  /// - Parameters:
  ///   - messages: all of them.
  ///   - tools: those that the model may call.
  ///   - toolChoice: which of them it may or must call.
  ///   - flags: what is done differently from the default.
  ///   - templateArguments: for the model's chat template, such as `["enable_thinking": false]`.
  public static func messages(
    _ messages: [Message], tools: [Tool] = [], toolChoice: ToolChoice = .auto,
    templateArguments: [String: JSONValue] = [:], flags: Flags = []
  ) -> Input {
    Input(
      content: .messages(messages, tools: tools, choice: toolChoice, templateArguments: templateArguments), flags: flags)
  }

  /// The same as JSON text, which goes to the library as it is: an array of messages, one of tools, an object.
  public static func json(
    messages: String, tools: String? = nil, toolChoice: ToolChoice = .auto, templateArguments: String? = nil,
    flags: Flags = []
  ) -> Input {
    Input(
      content: .json(messages: messages, tools: tools, choice: toolChoice, templateArguments: templateArguments),
      flags: flags)
  }

  /// The C struct, whose memory lives as long as the arena.
  func make(_ arena: Arena) throws -> mlxrt_input {
    var input = mlxrt_input()
    input.struct_size = structSize(mlxrt_input.self)
    input.flags = flags.rawValue
    switch content {
    case .text(let text):
      (input.text, input.text_len) = arena.text(text)
    case .tokens(let tokens):
      input.tokens = UnsafePointer(arena.array(tokens))
      input.token_count = tokens.count
    case .messages(let messages, let tools, let choice, let arguments):
      (input.tool_choice, input.tool_choice_len) = try choice.json(arena)
      (input.messages, input.messages_len) = arena.text(try encodeJSON(messages, "messages"))
      if !tools.isEmpty { (input.tools, input.tools_len) = arena.text(try encodeJSON(tools, "tools")) }
      if !arguments.isEmpty {
        (input.template_args, input.template_args_len) = arena.text(try encodeJSON(arguments, "templateArguments"))
      }
    case .json(let messages, let tools, let choice, let arguments):
      (input.tool_choice, input.tool_choice_len) = try choice.json(arena)
      (input.messages, input.messages_len) = arena.text(messages)
      if let tools { (input.tools, input.tools_len) = arena.text(tools) }
      if let arguments { (input.template_args, input.template_args_len) = arena.text(arguments) }
    }
    return input
  }

  /// Is it so much that making tokens of it takes a while?
  var isBig: Bool {
    let most = 16 << 10
    switch content {
    case .text(let text): return text.utf8.count > most
    case .tokens: return false
    case .json(let messages, let tools, _, _): return messages.utf8.count + (tools?.utf8.count ?? 0) > most
    case .messages(let messages, let tools, _, _):
      // Rendering alone takes a while where there are many.
      return messages.count + tools.count > 32
        || messages.reduce(0) { $0 + ($1.content?.utf8.count ?? 0) + ($1.reasoning?.utf8.count ?? 0) } > most
    }
  }
}

/// Which of its tools a model may or must call.
public enum ToolChoice: Sendable, Hashable {
  /// What it likes.
  case auto
  /// None, and it is shown none.
  case none
  /// The answer is a call, perhaps behind thinking.
  case required
  /// The answer is a call of the tool of this name.
  case tool(String)

  /// As the library takes it; nothing for the default.
  func json(_ arena: Arena) throws -> (UnsafePointer<CChar>?, Int) {
    switch self {
    case .auto: return (nil, 0)
    case .none: return arena.text("\"none\"")
    case .required: return arena.text("\"required\"")
    case .tool(let name): return arena.text(try encodeJSON(["name": name], "toolChoice"))
    }
  }
}
