/// A message of a conversation, as OpenAI's chat API has them.
public struct Message: Codable, Sendable, Hashable {
  /// Who speaks. Any name that the model's chat template knows; these are usual.
  public struct Role: RawRepresentable, Codable, Sendable, Hashable, ExpressibleByStringLiteral {
    /// The name in the JSON.
    public var rawValue: String
    /// A role by its name.
    public init(rawValue: String) { self.rawValue = rawValue }
    /// A role by its name.
    public init(stringLiteral value: String) { rawValue = value }
    /// Instructions of the program.
    public static let system: Role = "system"
    /// The person.
    public static let user: Role = "user"
    /// The model.
    public static let assistant: Role = "assistant"
    /// What a tool gave.
    public static let tool: Role = "tool"
  }

  /// Who speaks.
  public var role: Role
  /// What is said; nil beside tool calls.
  public var content: String?
  /// What the model thought before it answered.
  public var reasoning: String?
  /// The tools that the model calls.
  public var toolCalls: [ToolCall]?
  /// The call that this is the answer to.
  public var toolCallID: String?
  /// Who speaks, by name, or the tool's name.
  public var name: String?

  enum CodingKeys: String, CodingKey {
    case role, content, name
    case reasoning = "reasoning_content"
    case toolCalls = "tool_calls"
    case toolCallID = "tool_call_id"
  }

  /// A message; only the role is needed.
  public init(
    role: Role, content: String?, reasoning: String? = nil, toolCalls: [ToolCall]? = nil, toolCallID: String? = nil,
    name: String? = nil
  ) {
    self.role = role
    self.content = content
    self.reasoning = reasoning
    self.toolCalls = toolCalls
    self.toolCallID = toolCallID
    self.name = name
  }

  /// Instructions of the program.
  public static func system(_ content: String) -> Message { Message(role: .system, content: content) }
  /// What the person says.
  public static func user(_ content: String) -> Message { Message(role: .user, content: content) }
  /// What the model said.
  public static func assistant(_ content: String) -> Message { Message(role: .assistant, content: content) }
  /// What a tool gave for a call.
  public static func tool(_ content: String, for call: ToolCall) -> Message {
    Message(role: .tool, content: content, toolCallID: call.id, name: call.name)
  }

  /// Reads both forms of content, a text and a list of text parts, which are joined.
  public init(from decoder: any Decoder) throws {
    struct Part: Decodable { let text: String }
    let container = try decoder.container(keyedBy: CodingKeys.self)
    role = try container.decode(Role.self, forKey: .role)
    if let parts = try? container.decode([Part].self, forKey: .content) {
      content = parts.map(\.text).joined()
    } else {
      content = try container.decodeIfPresent(String.self, forKey: .content)
    }
    reasoning = try container.decodeIfPresent(String.self, forKey: .reasoning)
    toolCalls = try container.decodeIfPresent([ToolCall].self, forKey: .toolCalls)
    toolCallID = try container.decodeIfPresent(String.self, forKey: .toolCallID)
    name = try container.decodeIfPresent(String.self, forKey: .name)
  }
}

/// A call of a tool that the model asks for.
public struct ToolCall: Codable, Sendable, Hashable {
  /// Which call it is; some models have no ids.
  public var id: String?
  /// The tool.
  public var name: String
  /// What it is called with, an object.
  public var arguments: JSONValue

  /// A call of a tool.
  public init(id: String? = nil, name: String, arguments: JSONValue) {
    self.id = id
    self.name = name
    self.arguments = arguments
  }

  private enum CodingKeys: String, CodingKey { case id, type, function, name, arguments }

  /// Reads `{"id", "type", "function": {"name", "arguments"}}` and `{"id", "name", "arguments"}`. Arguments that are JSON
  /// in a text, as OpenAI sends them, are read.
  public init(from decoder: any Decoder) throws {
    let outer = try decoder.container(keyedBy: CodingKeys.self)
    id = try outer.decodeIfPresent(String.self, forKey: .id)
    let inner = try outer.contains(.function)
      ? outer.nestedContainer(keyedBy: CodingKeys.self, forKey: .function) : outer
    name = try inner.decode(String.self, forKey: .name)
    let given = try inner.decodeIfPresent(JSONValue.self, forKey: .arguments) ?? .object([:])
    arguments = given.stringValue.flatMap(JSONValue.init(json:)) ?? given
  }

  /// Writes `{"id", "type", "function": {"name", "arguments"}}`.
  public func encode(to encoder: any Encoder) throws {
    var outer = encoder.container(keyedBy: CodingKeys.self)
    try outer.encodeIfPresent(id, forKey: .id)
    try outer.encode("function", forKey: .type)
    var inner = outer.nestedContainer(keyedBy: CodingKeys.self, forKey: .function)
    try inner.encode(name, forKey: .name)
    try inner.encode(arguments, forKey: .arguments)
  }
}

/// A tool that the model may call, as OpenAI's chat API has them.
public struct Tool: Codable, Sendable, Hashable {
  /// The name that the model calls it by.
  public var name: String
  /// What it does, in words for the model.
  public var description: String?
  /// A JSON schema of its arguments.
  public var parameters: JSONValue?

  /// A tool.
  public init(name: String, description: String? = nil, parameters: JSONValue? = nil) {
    self.name = name
    self.description = description
    self.parameters = parameters
  }

  private enum CodingKeys: String, CodingKey { case type, function, name, description, parameters }

  /// Reads `{"type": "function", "function": {...}}`, and the function alone.
  public init(from decoder: any Decoder) throws {
    let outer = try decoder.container(keyedBy: CodingKeys.self)
    let inner = try outer.contains(.function)
      ? outer.nestedContainer(keyedBy: CodingKeys.self, forKey: .function) : outer
    name = try inner.decode(String.self, forKey: .name)
    description = try inner.decodeIfPresent(String.self, forKey: .description)
    parameters = try inner.decodeIfPresent(JSONValue.self, forKey: .parameters)
  }

  /// Writes `{"type": "function", "function": {...}}`.
  public func encode(to encoder: any Encoder) throws {
    var outer = encoder.container(keyedBy: CodingKeys.self)
    try outer.encode("function", forKey: .type)
    var inner = outer.nestedContainer(keyedBy: CodingKeys.self, forKey: .function)
    try inner.encode(name, forKey: .name)
    try inner.encodeIfPresent(description, forKey: .description)
    try inner.encodeIfPresent(parameters, forKey: .parameters)
  }
}
