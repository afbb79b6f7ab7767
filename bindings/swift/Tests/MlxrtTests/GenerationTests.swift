import CMlxrt
import Mlxrt
import XCTest

final class GenerationTests: XCTestCase {
  func testAStreamIsWhatABlockingCallGives() async throws {
    let model = try await Fixture.model()
    let pulled = try Session(model), pushed = try Session(model)
    var options = greedy(60)
    options.logprobs = 3
    options.progressTokens = 2
    options.priority = .max
    var text = "", tokens: [Int32] = [], logprobs: [Float] = [], alternatives: [[Event.Alternative]] = []
    var progress = 0
    var ends: [GenerationResult] = []
    for try await event in pulled.generate(.text("Hello there, you"), options: options) {
      switch event {
      case .text(let piece):
        text += piece.text
        tokens += piece.tokens
        logprobs += piece.logprobs
        alternatives += piece.alternatives
      case .progress(let done, let total):
        XCTAssertLessThanOrEqual(done, total)
        progress += 1
      case .finished(let result): ends.append(result)
      default: XCTFail("\(event)")
      }
    }
    XCTAssertEqual(tokens.count, 60)
    XCTAssertEqual(ends.count, 1)
    let end = try XCTUnwrap(ends.first)
    XCTAssertEqual(end.stop, .length)
    XCTAssertEqual(end.generatedTokens, 60)
    XCTAssertGreaterThan(progress, 0)
    XCTAssertEqual(logprobs.count, 60)
    XCTAssertEqual(alternatives.count, 60)
    // Greedy takes the likeliest, and its log-probability is the first alternative's.
    XCTAssertEqual(alternatives.map { $0[0].token }, tokens)
    XCTAssertEqual(alternatives.map { $0[0].logprob }, logprobs)
    XCTAssertTrue(alternatives.allSatisfy { $0.count == 3 })
    XCTAssertGreaterThan(try XCTUnwrap(end.tokensPerSecond), 0)
    XCTAssertGreaterThan(try XCTUnwrap(end.timeToFirstToken), .zero)
    XCTAssertLessThanOrEqual(end.prefillTime + end.decodeTime, end.totalTime)
    XCTAssertEqual(try pulled.tokens().suffix(60), tokens[...])
    XCTAssertEqual(try model.detokenize(tokens), text)

    let asked = options
    let blocking = await onThread {
      var text = ""
      let result = try pushed.generateBlocking(.text("Hello there, you"), options: asked) { event in
        if let piece = event.answerText { text += piece }
        return .continue
      }
      return (text, result)
    }
    let (blockingText, blockingResult) = try blocking.get()
    XCTAssertEqual(blockingText, text)
    XCTAssertEqual(blockingResult.generatedTokens, 60)
    let state = try pulled.state()
    XCTAssertEqual(state.tokens, UInt64(try pulled.tokens().count))
    XCTAssertFalse(state.isBusy)
    XCTAssertGreaterThan(state.kvBytes, 0)
    XCTAssertGreaterThan(try model.metrics().last.generatedTokens, 0)
  }

  func testAChatReusesWhatItHolds() async throws {
    let model = try await Fixture.demo()
    let session = try Session(model)
    var messages: [Message] = [.user("What is the capital of France?")]
    let first = try await session.respond(to: messages, options: GenerateOptions(maxTokens: 12, temperature: 0))
    XCTAssertTrue(first.text.contains("Paris"), first.text)
    let message = try session.message()
    XCTAssertEqual(message.role, .assistant)
    XCTAssertEqual(message.content, first.text)
    XCTAssertEqual(first.message.content, message.content)
    messages += [message, .user("And of Italy?")]
    let second = try await session.respond(to: messages, options: GenerateOptions(maxTokens: 3, temperature: 0))
    XCTAssertGreaterThan(second.result.cachedTokens, first.result.promptTokens)
    XCTAssertLessThan(second.result.cachedTokens, second.result.promptTokens)
  }

  func testSessionsAreForkedAndCut() async throws {
    let model = try await Fixture.endlessModel()
    // What a session answers that has nothing of this computed.
    func fresh(_ prompt: [Int32]) async throws -> [Int32] {
      var options = greedy(6)
      options.flags.insert(.noPrefixCache)
      let answer = try await Session(model).respond(to: .tokens(prompt), options: options)
      XCTAssertEqual(answer.result.cachedTokens, 0)
      return answer.tokens
    }
    let session = try Session(model, options: .init(context: 4000))
    _ = try await session.respond(to: .tokens(Array(5...14)), options: greedy(6))
    let held = try session.tokens()
    let fork = try session.fork()
    XCTAssertEqual(try fork.tokens(), held)
    XCTAssertEqual(try fork.message(), try session.message())
    XCTAssertEqual(try fork.state().context, 4000)
    XCTAssertTrue(fork.model === model)
    let one = try await session.respond(to: .tokens([20]), options: greedy(6))
    let other = try await fork.respond(to: .tokens([30]), options: greedy(6))
    let wantedOne = try await fresh(held + [20]), wantedOther = try await fresh(held + [30])
    XCTAssertEqual(one.tokens, wantedOne)
    XCTAssertEqual(other.tokens, wantedOther)
    XCTAssertEqual(other.result.cachedTokens + 2, other.result.promptTokens)

    await assertFails(.invalidArgument, "holds") { try fork.truncate(to: held.count + 8) }
    await assertFails(.invalidArgument, "-1") { try fork.truncate(to: -1) }
    try fork.truncate(to: 12)
    XCTAssertEqual(try fork.tokens(), Array(held[..<12]))
    await assertFails(.notFound) { try fork.message() }
    // Either may go first.
    await session.close()
    let third = try await fork.respond(to: .tokens([30]), options: greedy(6))
    let wantedThird = try await fresh(Array(held[..<12]) + [30])
    XCTAssertEqual(third.tokens, wantedThird)
    XCTAssertEqual(third.result.cachedTokens, 12)

    let running = try await fork.submit(.tokens([5]), options: greedy(endless))
    await assertFails(.busy) { try fork.fork() }
    await assertFails(.busy) { try fork.truncate(to: 1) }
    running.cancel()
    _ = try await running.result()
    await assertFails(.invalidHandle) { try session.fork() }
    await assertFails(.invalidHandle) { try session.truncate(to: 0) }
  }

  func testSessionsAreSavedAndLoaded() async throws {
    let path = FileManager.default.temporaryDirectory.appendingPathComponent("mlxrt-session-\(UUID().uuidString)").path
    defer { try? FileManager.default.removeItem(atPath: path) }
    let model = try await Fixture.model()
    let session = try Session(model)
    _ = try await session.respond(to: .tokens(Array(5...14)), options: greedy(6))
    try await session.save(to: path)
    let held = try session.tokens()
    let wanted = try await session.respond(to: .tokens([20]), options: greedy(6))
    let loaded = try await Session.load(path, for: model)
    XCTAssertEqual(try loaded.tokens(), held)
    XCTAssertTrue(loaded.model === model)
    let answer = try await loaded.respond(to: .tokens([20]), options: greedy(6))
    XCTAssertEqual(answer.tokens, wanted.tokens)
    XCTAssertEqual(answer.result.cachedTokens, wanted.result.cachedTokens)

    await assertFails(.notFound) { try await Session.load(path + "-none", for: model) }
    var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
    bytes[bytes.count - 100] ^= 1
    try bytes.write(to: URL(fileURLWithPath: path))
    await assertFails(.badModel, "damaged") { try await Session.load(path, for: model) }
    await session.close()
    await assertFails(.invalidHandle) { try await session.save(to: path) }
  }

  func testScoresAreWhatWasSaid() async throws {
    let model = try await Fixture.model()
    let session = try Session(model), other = try Session(model)
    let prompt = Array(Int32(5)...14)
    var options = greedy(12)
    options.logprobs = 0
    let answer = try await other.respond(to: .tokens(prompt), options: options)
    func same(_ logprobs: [Float]) {
      XCTAssertEqual(logprobs.count, answer.tokens.count)
      for (ours, its) in zip(logprobs, answer.logprobs) { XCTAssertEqual(ours, its, accuracy: 1e-4) }
    }
    let ends = Counter()
    let heard = try await session.score(.tokens(answer.tokens), after: .tokens(prompt)) { progress in
      if progress.done == progress.total { ends.add() }
    }
    same(heard)
    XCTAssertEqual(ends.value, 1)
    _ = try await session.respond(to: .tokens(prompt), options: GenerateOptions(maxTokens: 0))
    same(try await session.score(.tokens(answer.tokens)))
    XCTAssertEqual(try session.tokens(), prompt)

    await assertFails(.invalidArgument, "no tokens") { try await session.score(.text("")) }
    await assertFails(.invalidArgument, "target.messages") { try await session.score(.messages([.user("Hi")])) }
    do {
      _ = try await session.score(.tokens(answer.tokens)) { _ in throw Whatever() }
      XCTFail("it went on")
    } catch let error as Whatever {
      XCTAssertEqual(error, Whatever())
    }
    same(try await session.score(.tokens(answer.tokens)))
  }

  func testKeysOfALayer() async throws {
    let session = try Session(try await Fixture.model())
    await assertFails(.notFound, "no tokens") { try await session.inspectAttention(layer: 0) }
    _ = try await session.respond(to: .tokens([5, 6, 7, 8]), options: greedy(3))
    let keys = try await session.inspectAttention(layer: 1)
    // Of all tokens but the last, which the next request computes.
    XCTAssertEqual(keys.shape, [1, 6, 16])
    XCTAssertEqual(keys.values.count, 6 * 16)
    await assertFails(.invalidArgument, "2 layers") { try await session.inspectAttention(layer: 2) }
    await assertFails(.invalidArgument, "layer") { try await session.inspectAttention(layer: -1) }
  }

  func testAnswersFollowGrammars() async throws {
    let model = try await Fixture.model()
    let grammar = try await Grammar.compile(.jsonSchema(#"{"enum":["yes","no"]}"#), for: model)
    var options = GenerateOptions(maxTokens: 20, temperature: 0)
    options.grammar = grammar
    let answer = try await Session(model).respond(to: .text("Yes or no?"), options: options)
    XCTAssertTrue(["\"yes\"", "\"no\""].contains(answer.text), answer.text)
    XCTAssertEqual(answer.result.stop, .grammar)
    await assertFails(.badGrammar, "#/not") { try await Grammar.compile(.jsonSchema(#"{"not":{}}"#), for: model) }
    await assertFails(.badGrammar) { try await Grammar.compile(.regex("("), for: model) }
    await assertFails(.badGrammar) { try await Grammar.compile(.lark("start: other"), for: model) }
    _ = try await Grammar.compile(.json, for: model)
    await grammar.close()
    await assertFails(.invalidHandle, "grammar") {
      try await Session(model).respond(to: .text("x"), options: options)
    }
  }

  func testPromptsAreShared() async throws {
    let model = try await Fixture.model()
    let first = try Session(model), second = try Session(model), third = try Session(model)
    let prompt = Input.tokens(Array(5...14))
    var options = greedy(6)
    _ = try await first.respond(to: prompt, options: options)
    let shared = try await second.respond(to: prompt, options: options)
    options.flags.insert(.noPrefixCache)
    let anew = try await third.respond(to: prompt, options: options)
    XCTAssertEqual(shared.result.cachedTokens, 9)
    XCTAssertEqual(anew.result.cachedTokens, 0)
    XCTAssertEqual(shared.tokens, anew.tokens)
    withExtendedLifetime(first) {}
  }

  func testOptionsReachTheLibrary() async throws {
    let model = try await Fixture.model()
    func run(_ change: (inout GenerateOptions) -> Void) async throws -> Answer {
      var options = greedy(24)
      change(&options)
      return try await Session(model).respond(to: .text("Hello there"), options: options)
    }
    let plain = try await run { _ in }
    XCTAssertEqual(plain.tokens.count, 24)

    // A temperature of 0 is greedy, and nothing else is.
    let hot = try await run { $0.temperature = 5; $0.seed = 3; $0.flags.insert(.noModelDefaults) }
    let same = try await run { $0.temperature = 5; $0.seed = 3; $0.flags.insert(.noModelDefaults) }
    let other = try await run { $0.temperature = 5; $0.seed = 4; $0.flags.insert(.noModelDefaults) }
    XCTAssertNotEqual(hot.tokens, plain.tokens)
    XCTAssertEqual(hot.tokens, same.tokens)
    XCTAssertEqual(hot.result.seed, 3)
    XCTAssertNotEqual(hot.tokens, other.tokens)
    let narrow = try await run { $0.temperature = 5; $0.topK = 1; $0.seed = 3 }
    XCTAssertEqual(narrow.tokens, plain.tokens)
    let off = try await run {
      $0.temperature = 5; $0.seed = 3; $0.topK = 0; $0.minP = 0; $0.xtcProbability = 0; $0.topP = 1
      $0.flags.insert(.noModelDefaults)
    }
    XCTAssertEqual(off.tokens, hot.tokens)
    let minP = try await run { $0.temperature = 5; $0.minP = 1; $0.seed = 3 }
    XCTAssertEqual(minP.tokens, plain.tokens)

    let prefill = try await run { $0.maxTokens = 0; $0.flags = [] }
    XCTAssertEqual(prefill.tokens, [])
    XCTAssertGreaterThan(prefill.result.promptTokens, 0)
    let banned = try await run { $0.bias = [plain.tokens[0]: -.infinity] }
    XCTAssertNotEqual(banned.tokens.first, plain.tokens.first)
    let forced = try await run { $0.bias = [77: 1000, 78: 10] }
    XCTAssertEqual(Set(forced.tokens), [77])
    let stopped = try await run { $0.stopTokens = [-1, plain.tokens[5]].filter { $0 >= 0 } }
    XCTAssertEqual(stopped.result.stop, .stopToken(0))
    XCTAssertLessThanOrEqual(stopped.tokens.count, 6)
    let part = String(plain.text.dropFirst(4).prefix(3))
    let cut = try await run { $0.stop = ["never, ever", part] }
    XCTAssertEqual(cut.result.stop, .stopString(1))
    XCTAssertFalse(cut.text.contains(part))
    let penalised = try await run { $0.repetitionPenalty = 50; $0.penaltyWindow = .max }
    XCTAssertEqual(Set(penalised.tokens).count, penalised.tokens.count)
    let presence = try await run { $0.presencePenalty = 2; $0.frequencyPenalty = 2 }
    XCTAssertNotEqual(presence.tokens, plain.tokens)
    let tokensOnly = try await run { $0.flags.insert(.tokensOnly) }
    XCTAssertEqual(tokensOnly.text, "")
    XCTAssertEqual(tokensOnly.tokens, plain.tokens)
    let logprobs = try await run { $0.logprobs = 0 }
    XCTAssertEqual(logprobs.logprobs.count, 24)
    let late = try await run { $0.timeout = .milliseconds(1); $0.maxTokens = nil }
    XCTAssertEqual(late.result.stop, .timeout)
  }

  func testOptionsThatCannotBeAreRefusedAndNeverTrap() async throws {
    let model = try await Fixture.model()
    let session = try Session(model)
    func refused(_ words: String, line: UInt = #line, _ change: (inout GenerateOptions) -> Void) async {
      var options = GenerateOptions()
      change(&options)
      await assertFails(.invalidArgument, words, line: line) {
        try await session.respond(to: .text("Hello"), options: options)
      }
    }
    await refused("maxTokens") { $0.maxTokens = -1 }
    await refused("maxTokens") { $0.maxTokens = .max }
    await refused("topK") { $0.topK = .min }
    await refused("topK") { $0.topK = .max }
    await refused("topP") { $0.topP = 0 }
    await refused("top_p") { $0.topP = 2 }
    await refused("minP") { $0.minP = -1 }
    await refused("xtcProbability") { $0.xtcProbability = -1 }
    await refused("xtcThreshold") { $0.xtcThreshold = 0 }
    await refused("temperature") { $0.temperature = -1 }
    await refused("temperature") { $0.temperature = .nan }
    await refused("repetitionPenalty") { $0.repetitionPenalty = 0 }
    await refused("presence_penalty") { $0.presencePenalty = 3 }
    await refused("penaltyWindow") { $0.penaltyWindow = 0 }
    await refused("seed") { $0.seed = 0 }
    await refused("logprobs") { $0.logprobs = -1 }
    await refused("thinkingBudget") { $0.thinkingBudget = -1 }
    await refused("timeout") { $0.timeout = .seconds(-1) }
    await refused("timeout") { $0.timeout = .seconds(Int64.max) }
    await refused("timeout") { $0.timeout = .seconds(50 * 86400) }
    await refused("progressTokens") { $0.progressTokens = -1 }
    await refused("stop") { $0.stop = [""] }
    await refused("stop_tokens") { $0.stopTokens = [.min] }
    await assertFails(.invalidArgument, "context") { try Session(model, options: .init(context: 0)) }
    await assertFails(.invalidArgument, "keep") { try Session(model, options: .init(keep: -1)) }
    await assertFails(.invalidArgument) { try await session.respond(to: .tokens([-5])) }
    await assertFails(.invalidArgument) { try await session.respond(to: .tokens([])) }
    await assertFails(.invalidArgument) { try await session.respond(to: .messages([])) }
    // It is as good as new.
    let answer = try await session.respond(to: .text("Hello"), options: greedy(2))
    XCTAssertEqual(answer.tokens.count, 2)
  }

  /// The model of this test thinks, calls a tool, and says something about what that gave.
  func testThinkingAndCallsAreToldApart() async throws {
    let session = try Session(await Model.load(Fixture.path("script")))
    let tools = [Tool(name: "weather", parameters: ["type": "object"])]
    var messages = [Message.user("How warm is it in Oslo?")]
    let answer = try await session.respond(to: .messages(messages, tools: tools))
    XCTAssertEqual(answer.thinking, "Let me look it up.")
    XCTAssertEqual(answer.text, "I ask:")
    XCTAssertEqual(answer.toolCalls.map(\.name), ["weather"])
    XCTAssertEqual(answer.toolCalls.first?.arguments, ["city": "Oslo"])
    XCTAssertEqual(answer.result.stop, .toolCall)
    XCTAssertEqual(answer.result.thinkingTokens, 6)
    var options = GenerateOptions()
    for (budget, thinking) in [(2, "Let me"), (0, "")] {
      options.thinkingBudget = budget
      let short = try await session.respond(to: .messages(messages, tools: tools), options: options)
      XCTAssertEqual(short.thinking, thinking)
    }
    // Calls are chosen, obey their schema, and are told while they come.
    let bound = [
      Tool(name: "weather", parameters: ["type": "object", "required": ["city"], "properties": ["city": ["const": "Bergen"]]])
    ]
    let ask = Input.messages(messages, tools: bound, toolChoice: .tool("weather"))
    var pieces = ""
    for try await event in session.generate(ask, options: GenerateOptions(flags: [.strictTools, .toolDeltas])) {
      switch event {
      case .toolDelta(let delta): pieces += delta.arguments
      case .toolCall(let call, _): XCTAssertEqual(call.arguments, ["city": "Bergen"])
      case .text(let piece): XCTAssertEqual(piece.text, "")
      default: break
      }
    }
    XCTAssertEqual(pieces.filter { $0 != " " }, #"{"city":"Bergen"}"#)
    await assertFails(.invalidArgument, "clock") {
      try await session.respond(to: .messages(messages, tools: bound, toolChoice: .tool("clock")))
    }
    let call = try XCTUnwrap(answer.toolCalls.first)
    messages += [answer.message, .tool("<tool_call> -3", for: call)]
    let last = try await session.respond(to: .messages(messages, tools: tools))
    XCTAssertEqual(last.text, "It is cold.")
    XCTAssertEqual(last.result.stop, .endOfText)
  }

  func testTextAndTokens() async throws {
    let model = try await Fixture.demo()
    let text = "Hello, wörld \u{1F600} a\u{0}b"
    let tokens = try await model.tokenize(text)
    XCTAssertEqual(try model.detokenize(tokens), text)
    let none = try await model.tokenize("")
    XCTAssertEqual(none, [])
    XCTAssertEqual(try model.detokenize([]), "")
    let eos = try XCTUnwrap(try model.info().endTokens.first)
    let name = try model.detokenize([eos])
    let special = try await model.tokenize(name), spelled = try await model.tokenize(name, flags: .specialAsText)
    XCTAssertEqual(special, [eos])
    XCTAssertGreaterThan(spelled.count, 1)
    XCTAssertEqual(try model.detokenize([eos], skipSpecial: true), "")
    // Long text goes another way, to the same tokens.
    let long = String(repeating: "many words ", count: 5000)
    let some = try await model.tokenize("many words "), many = try await model.tokenize(long)
    XCTAssertEqual(try model.detokenize(many), long)
    XCTAssertGreaterThan(many.count, some.count * 1000)

    let prompt = try model.render([.system("Be brief."), .user("Hi <|im_end|>")])
    XCTAssertTrue(prompt.contains("Be brief."), prompt)
    let asked = Input.messages([.system("Be brief."), .user("Hi <|im_end|>")])
    let counted = try model.countTokens(asked)
    XCTAssertEqual(try model.promptTokens(asked).count, counted)
    let taken = try await Session(model).respond(to: asked, options: greedy(1))
    XCTAssertEqual(Int(taken.result.promptTokens), counted)
    let closed = try model.render(.messages([.user("Hi")], flags: .noGenerationPrompt))
    let open = try model.render([.user("Hi")])
    XCTAssertTrue(open.hasPrefix(closed) && open.count > closed.count)
    await assertFails(.invalidArgument) { try model.render(.text("no messages")) }
  }

  func testALongInputIsSubmittedFromAThreadOfItsOwn() async throws {
    let model = try await Fixture.model()
    let session = try Session(model)
    let long = Message.user(String(repeating: "word ", count: 8000))
    await assertFails(.contextFull) { try await session.respond(to: [long], options: greedy(2)) }
  }

  func testWhatAModelTellsOfItself() async throws {
    let path = Fixture.path("models/qwen3-f32")
    let inspected = try await Model.inspect(path, session: .init(context: 64))
    let loaded = try await Model.load(path, options: .init(context: 512)).info()
    XCTAssertEqual(inspected.modelType, "qwen3")
    XCTAssertEqual(inspected.parameters, loaded.parameters)
    XCTAssertEqual(inspected.json["session_context"]?.intValue, 64)
    XCTAssertGreaterThan(try XCTUnwrap(inspected.estimatedBytes), inspected.weightBytes)
    XCTAssertEqual(loaded.context, 512)
    XCTAssertEqual(loaded.chatFormat, "template")
    XCTAssertEqual(loaded.vocabularySize, loaded.json["vocab_size"]?.intValue)
  }

  func testLinksAreFollowedIfTheHostSaysSo() async throws {
    let from = Fixture.path("models/qwen3-f32"), folder = try Fixture.folder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    for name in try FileManager.default.contentsOfDirectory(atPath: from) {
      try FileManager.default.createSymbolicLink(atPath: folder + "/" + name, withDestinationPath: from + "/" + name)
    }
    await assertFails(.badModel, "link") { try await Model.load(folder) }
    await assertFails(.badModel, "link") { try await Model.inspect(folder) }
    let follow = Model.LoadOptions(followLinks: true)
    let inspected = try await Model.inspect(folder, options: follow)
    let loaded = try await Model.load(folder, options: follow).info()
    XCTAssertEqual(loaded.parameters, inspected.parameters)
  }

  func testSessionOptions() async throws {
    let model = try await Fixture.model()
    let session = try Session(model, options: .init(context: 40, window: 16, keep: 0))
    XCTAssertEqual(try session.state().context, 40)
    let answer = try await session.respond(to: .text("Hello"), options: greedy(200))
    XCTAssertEqual(answer.result.stop, .context)
    XCTAssertEqual(try session.state().tokens, 40)
    await assertFails(.invalidArgument, "kv_bits") { try Session(model, options: .init(kvBits: 3)) }
    // Heads of 16 numbers.
    await assertFails(.unsupported, "kv_bits") { try Session(model, options: .init(kvBits: 8)) }
    let other = try await Fixture.model("qwen3-4bit")
    await assertFails(.incompatible, "kv_group_size") { try Session(other, options: .init(kvBits: 8, kvGroupSize: 64)) }
    let packed = try Session(other, options: .init(kvBits: 8, kvGroupSize: 32))
    _ = try await packed.respond(to: .text("Hello"), options: greedy(3))
    let small = try Session(model, options: .init(kvLimit: 1))
    await assertFails(.outOfMemory) { try await small.respond(to: .text("Hello"), options: greedy(200)) }
  }

  func testTheLibraryOfTheProcess() async throws {
    XCTAssertGreaterThanOrEqual(Runtime.abiVersion, 1)
    XCTAssertFalse(Runtime.version.isEmpty)
    var options = Runtime.StartOptions()
    options.device = .automatic
    try await Runtime.start(options)
    let device = try await Runtime.deviceInfo()
    XCTAssertNotNil(device["mlx_version"]?.stringValue)
    let model = try await Fixture.model()
    let session = try Session(model)
    _ = try await session.respond(to: .text("Hello"), options: greedy(4))
    let memory = try Runtime.memory()
    XCTAssertGreaterThan(memory.weightBytes, 0)
    XCTAssertGreaterThan(memory.kvBytes, 0)
    try await Runtime.trimMemory(.idleSessions)
    XCTAssertEqual(try session.state().kvTokens, 0)
    XCTAssertGreaterThan(try session.state().tokens, 0)
    try Runtime.setMemoryLimits(memory: .bytes(1 << 40))
    XCTAssertEqual(try Runtime.memory().limit, .bytes(1 << 40))
    try Runtime.setMemoryLimits(memory: .unlimited)
    XCTAssertEqual(try Runtime.memory().limit, .unlimited)
    let metrics = try Runtime.metrics()
    XCTAssertGreaterThanOrEqual(metrics.requestsStarted, 1)
    XCTAssertEqual(try model.metrics().requestsWaiting, 0)
    XCTAssertGreaterThan(metrics.queueTime, .zero)
    XCTAssertGreaterThan(metrics.passes, 0)
    XCTAssertGreaterThanOrEqual(metrics.passRows, metrics.passes)

    let lines = Counter()
    try await Runtime.setLog(.warning) { level, line in
      XCTAssertEqual(level, .error)
      XCTAssertTrue(line.contains("mlxrt_model_free"), line)
      lines.add()
    }
    // A handle that is none is logged.
    mlxrt_model_free(OpaquePointer(bitPattern: 4711))
    XCTAssertEqual(lines.value, 1)
    try await Runtime.setLog(to: nil)
    mlxrt_model_free(OpaquePointer(bitPattern: 4711))
    XCTAssertEqual(lines.value, 1)
    do { try await Runtime.shutdown() } catch let error as MlxrtError { XCTAssertEqual(error.code, .busy) }
  }
}
