import CMlxrt
import Dispatch
import Foundation

/// A value that several threads read and write.
final class Locked<Value>: @unchecked Sendable {
  private let lock = NSLock()
  private var value: Value

  init(_ value: Value) { self.value = value }

  func with<T>(_ body: (inout Value) throws -> T) rethrows -> T {
    lock.lock()
    defer { lock.unlock() }
    return try body(&value)
  }
}

/// Functions of the library that block run on threads of their own: threads of Swift's cooperative pool are as many as
/// cores, and one that waits is missing.
enum Blocking {
  static func run<T: Sendable>(_ work: @escaping @Sendable () throws -> T) async throws -> T {
    try await withCheckedThrowingContinuation { continuation in
      let thread = Thread {
        #if os(Linux)
          // Foundation's names do not reach the system there, and Swift does not see pthread_setname_np.
          try? "mlxrt".write(toFile: "/proc/thread-self/comm", atomically: false, encoding: .utf8)
        #else
          Thread.current.name = "mlxrt"
        #endif
        continuation.resume(with: Result { try work() })
      }
      thread.stackSize = 8 << 20
      thread.start()
    }
  }

  /// Like `run`; when the task is cancelled, `work` hears it from the flag, which its callback looks at, and the end is a
  /// `CancellationError`.
  static func runCancellable<T: Sendable>(_ work: @escaping @Sendable (Flag) throws -> T) async throws -> T {
    try Task.checkCancellation()
    let flag = Flag()
    return try await withTaskCancellationHandler {
      try await run { try work(flag) }
    } onCancel: {
      flag.set()
    }
  }

  /// Frees run here one after the other: freeing what held the engine last waits for its end.
  static let frees: DispatchQueue = {
    // An exit waits for those that are under way, like the library for its running step: MLX's static objects are
    // destroyed behind it.
    atexit { Blocking.finishFrees() }
    return DispatchQueue(label: "mlxrt.free")
  }()

  private static func finishFrees() {
    let done = DispatchSemaphore(value: 0)
    frees.async { done.signal() }
    _ = done.wait(timeout: .now() + .seconds(10))
  }
}

/// Is set once.
final class Flag: Sendable {
  private let value = Locked(false)
  var isSet: Bool { value.with { $0 } }
  func set() { value.with { $0 = true } }
}

/// A handle of the library and who frees it. Handles are ids that the library checks, so one that is closed while another
/// thread uses it gives an error there.
final class Handle: Sendable {
  /// An id in the shape of a pointer: any thread may have it.
  private struct Id: @unchecked Sendable { let pointer: OpaquePointer }

  private let id: Locked<Id?>
  private let what: String
  private let free: @Sendable (OpaquePointer) -> Void

  init(_ pointer: OpaquePointer?, _ what: String, free: @escaping @Sendable (OpaquePointer) -> Void) {
    self.id = Locked(pointer.map(Id.init))
    self.what = what
    self.free = free
  }

  deinit { release {} }

  /// Runs `body` with the handle, which stays until it has returned, unless it is closed.
  func with<T>(_ body: (OpaquePointer) throws -> T) throws -> T {
    guard let id = id.with({ $0 }) else {
      throw MlxrtError(code: .invalidHandle, message: "the \(what) is closed")
    }
    return try withExtendedLifetime(self) { try body(id.pointer) }
  }

  /// The same for functions that return nothing; a closed one is left alone.
  func ifOpen(_ body: (OpaquePointer) -> Void) {
    guard let id = id.with({ $0 }) else { return }
    withExtendedLifetime(self) { body(id.pointer) }
  }

  /// Frees it and comes back when that is done. Again does nothing.
  func close() async {
    await withCheckedContinuation { continuation in release { continuation.resume() } }
  }

  private func release(_ done: @escaping @Sendable () -> Void) {
    let id = id.with { id in
      defer { id = nil }
      return id
    }
    let free = free
    Blocking.frees.async {
      if let id { free(id.pointer) }
      done()
    }
  }
}
