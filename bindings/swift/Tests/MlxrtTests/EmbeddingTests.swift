import Foundation
import Mlxrt
import XCTest

final class EmbeddingTests: XCTestCase {
  func testTextsBecomeRows() async throws {
    let model = try await Model.load(Fixture.path("embeddings/bert"))
    let rows = try await model.embed(["the rain in the other town", "", "no", "the rain in the other town"])
    XCTAssertEqual(rows.map(\.count), [36, 36, 36, 36])
    func cosine(_ a: [Float], _ b: [Float]) -> Float { zip(a, b).map { $0 * $1 }.reduce(0, +) }
    XCTAssertEqual(cosine(rows[0], rows[3]), 1, accuracy: 1e-4)
    XCTAssertLessThan(cosine(rows[0], rows[2]), 0.999)
    let mean = try await model.embed(["no"], pooling: .mean)
    XCTAssertNotEqual(mean[0], rows[2])
    let first = try await model.embed(["no"], pooling: .cls, normalize: true)
    XCTAssertEqual(cosine(first[0], first[0]), 1, accuracy: 1e-4)
  }

  func testWhatCannotBeEmbeddedIsNamed() async throws {
    let model = try await Model.load(Fixture.path("embeddings/bert"))
    await assertFails(.invalidArgument, "count") { try await model.embed([]) }
    let long = String(repeating: "town ", count: 400)
    await assertFails(.contextFull, "texts[1]") { try await model.embed(["no", long]) }
    await assertFails(.unsupported, "encoder") { try Session(model) }
    struct Enough: Error {}
    do {
      _ = try await model.embed(["no"]) { _ in throw Enough() }
      XCTFail("it went on")
    } catch is Enough {}
  }
}
