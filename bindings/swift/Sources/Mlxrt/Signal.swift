/// Where tasks wait until a request has something new. The library calls `ring` on any thread; tasks wait without a thread.
///
/// Between a look at the request and the wait something may come: so a waiter says how many rings it had heard before it
/// looked.
final class Signal: Sendable {
  private struct State {
    var rings: UInt64 = 0
    var waiters: [CheckedContinuation<Void, Never>] = []
  }

  private let state = Locked(State())

  /// Rings so far.
  var rings: UInt64 { state.with { $0.rings } }

  /// Wakes everyone who waits.
  func ring() {
    let waiters = state.with { state in
      state.rings &+= 1
      guard !state.waiters.isEmpty else { return [CheckedContinuation<Void, Never>]() }
      defer { state.waiters.removeAll(keepingCapacity: true) }
      return state.waiters
    }
    for waiter in waiters { waiter.resume() }
  }

  /// Comes back once there were more rings than `heard`.
  func wait(after heard: UInt64) async {
    await withCheckedContinuation { continuation in
      let isOver = state.with { state in
        if state.rings != heard { return true }
        state.waiters.append(continuation)
        return false
      }
      if isOver { continuation.resume() }
    }
  }
}
