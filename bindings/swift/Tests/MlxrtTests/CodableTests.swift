import Mlxrt
import XCTest

final class CodableTests: XCTestCase {
  func roundTrip<T: Codable & Equatable>(_ value: T, line: UInt = #line) throws {
    let data = try JSONEncoder().encode(value)
    XCTAssertEqual(try JSONDecoder().decode(T.self, from: data), value, line: line)
  }

  func read<T: Decodable>(_ type: T.Type, _ json: String) throws -> T {
    try JSONDecoder().decode(type, from: Data(json.utf8))
  }

  func testMessagesGoThereAndBack() throws {
    let call = ToolCall(id: "1", name: "weather", arguments: ["city": "Köln", "days": [1, 2.5, true, nil]])
    for message: Message in [
      .system("Be brief."), .user("Hi \"you\" \u{1F600}\n"), .assistant(""), .tool("{}", for: call),
      Message(role: .assistant, content: nil, reasoning: "hm", toolCalls: [call]),
      Message(role: "narrator", content: "once", name: "n"),
    ] { try roundTrip(message) }
    try roundTrip(call)
    try roundTrip(Tool(name: "weather", description: "tells it", parameters: ["type": "object", "required": ["city"]]))
    try roundTrip(Tool(name: "bare"))
  }

  func testTheFormsThatPeopleHaveAreRead() throws {
    let parts = try read(Message.self, #"{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}"#)
    XCTAssertEqual(parts, .user("ab"))
    let call = try read(ToolCall.self, #"{"id":"1","type":"function","function":{"name":"f","arguments":"{\"k\":[1]}"}}"#)
    XCTAssertEqual(call, ToolCall(id: "1", name: "f", arguments: ["k": [1]]))
    XCTAssertEqual(try read(ToolCall.self, #"{"name":"f"}"#), ToolCall(name: "f", arguments: [:]))
    XCTAssertEqual(try read(Tool.self, #"{"name":"f","description":"d"}"#), Tool(name: "f", description: "d"))
    XCTAssertThrowsError(try read(Message.self, #"{"content":"x"}"#))
    XCTAssertThrowsError(try read(ToolCall.self, #"{"type":"function","function":{}}"#))
  }

  func testJSONValues() throws {
    let text = #"{"a":[1,-2.5,"x",true,null,{}],"big":9007199254740993}"#
    let value = try XCTUnwrap(JSONValue(json: text))
    XCTAssertEqual(value["a"]?.arrayValue?.count, 6)
    XCTAssertEqual(value["a"]?.arrayValue?[1].doubleValue, -2.5)
    XCTAssertEqual(value["a"]?.arrayValue?[3].boolValue, true)
    XCTAssertEqual(value["big"]?.intValue, 9_007_199_254_740_993)
    XCTAssertNil(value["none"])
    XCTAssertNil(JSONValue(json: "{"))
    try roundTrip(value)
  }

  func testTheLibraryReadsWhatIsWritten() async throws {
    let model = try await Fixture.demo()
    let call = ToolCall(id: "1", name: "weather", arguments: ["city": "Paris"])
    let tool = Tool(name: "weather", description: "Tells the weather.", parameters: ["type": "object"])
    let messages: [Message] = [
      .system("Be brief."), .user("How is it?"), Message(role: .assistant, content: nil, toolCalls: [call]),
      .tool("sunny", for: call),
    ]
    let prompt = try model.render(messages, tools: [tool])
    for words in ["Be brief.", "How is it?", "sunny"] { XCTAssertTrue(prompt.contains(words), prompt) }
    // The same as JSON that somebody wrote by hand.
    let json = """
      [{"role":"system","content":"Be brief."},{"role":"user","content":"How is it?"},
       {"role":"assistant","tool_calls":[{"id":"1","type":"function",
         "function":{"name":"weather","arguments":{"city":"Paris"}}}]},
       {"role":"tool","tool_call_id":"1","name":"weather","content":"sunny"}]
      """
    let tools = """
      [{"function":{"description":"Tells the weather.","name":"weather","parameters":{"type":"object"}},"type":"function"}]
      """
    XCTAssertEqual(try model.render(.json(messages: json, tools: tools)), prompt)
  }
}
