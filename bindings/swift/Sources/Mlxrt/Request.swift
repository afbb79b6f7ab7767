import CMlxrt

/// One request on a session: queued, running or ended.
///
/// Letting it go cancels it. Any task may use it, several at once.
public final class Request: Sendable {
  private let handle: Handle
  private let signal = Signal()
  /// Has `finished` been handed out?
  private let isFinished = Locked(false)

  /// Queues a request. Does not wait, but makes tokens of the input.
  init(_ session: Session, _ input: Input, _ options: GenerateOptions) throws {
    let arena = Arena()
    // The library's own reference to the signal, for as long as it may ring.
    let ringing = Unmanaged.passRetained(signal)
    var pointer: OpaquePointer?
    do {
      var given = try input.make(arena)
      var how = try options.make(arena)
      how.notify = { Unmanaged<Signal>.fromOpaque($0!).takeUnretainedValue().ring() }
      how.notify_data = ringing.toOpaque()
      try withExtendedLifetime(arena) {
        try session.handle.with { try check(mlxrt_submit($0, &given, &how, &pointer)) }
      }
    } catch {
      ringing.release()
      throw error
    }
    let reference = Reference(ringing: ringing)
    handle = Handle(pointer, "request") { pointer in
      mlxrt_request_free(pointer)
      reference.ringing.release()
    }
  }

  private struct Reference: @unchecked Sendable { let ringing: Unmanaged<Signal> }

  deinit { cancel() }

  /// What it produces, each event once: where several read, each event goes to one of them.
  ///
  /// The engine runs ahead of a slow reader by a bounded number of tokens. When the task that reads is cancelled, the
  /// request is cancelled and the stream ends, without ``Event/finished(_:)``.
  public var events: AsyncThrowingStream<Event, any Error> {
    AsyncThrowingStream { try await self.next() }
  }

  /// Ends the request, running or waiting, within one decode step or one chunk of the prompt; its stop is
  /// ``StopReason/cancelled``. The session stays usable and keeps what was made.
  public func cancel() {
    handle.ifOpen { mlxrt_request_cancel($0) }
  }

  /// Waits for the end of the request, dropping events that nobody has taken, and tells what it did and what it cost.
  ///
  /// - Throws: the error it failed with; `CancellationError` when the task is cancelled, which cancels the request.
  public func result() async throws -> GenerationResult {
    while let _ = try await step() {}
    try Task.checkCancellation()
    return try report()
  }

  /// The next event; nil after `finished`, or when the task is cancelled.
  func next() async throws -> Event? {
    if let event = try await step() { return event }
    if Task.isCancelled { return nil }
    // One reader gets the last event.
    let isFirst = isFinished.with { isFinished in
      defer { isFinished = true }
      return !isFinished
    }
    return isFirst ? .finished(try report()) : nil
  }

  /// The next event of the library; nil when there are no more, or when the task is cancelled.
  private func step() async throws -> Event? {
    while true {
      if Task.isCancelled {
        cancel()
        return nil
      }
      let heard = signal.rings
      switch try poll() {
      case .event(let event): return event
      case .done: return nil
      case .unknown: continue
      case .pending:
        await withTaskCancellationHandler {
          await signal.wait(after: heard)
        } onCancel: {
          cancel()
          signal.ring()
        }
      }
    }
  }

  private enum Poll { case event(Event), pending, done, unknown }

  /// What there is now.
  private func poll() throws -> Poll {
    try handle.with { request in
      var event: UnsafeMutablePointer<mlxrt_event>?
      var state: Int32 = 0
      try check(mlxrt_request_next(request, 0, &event, &state))
      defer { mlxrt_free(event) }
      switch state {
      case MLXRT_NEXT_EVENT:
        guard let event, let read = Event(event) else { return .unknown }
        return .event(read)
      case MLXRT_NEXT_PENDING: return .pending
      default: return .done
      }
    }
  }

  private func report() throws -> GenerationResult {
    try handle.with { request in
      var result = mlxrt_result()
      result.struct_size = structSize(mlxrt_result.self)
      try check(mlxrt_request_result(request, 0, &result))
      return GenerationResult(result)
    }
  }
}
