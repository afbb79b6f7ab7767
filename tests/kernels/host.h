// What CUDA C++ has and C++ has not, so that a processor runs the kernels of src/mlx/gpu/kernels: a block's threads are fibers, which
// change places where they wait for each other, and blocks run one after the other. What a kernel computes is tried that way, not how its
// blocks meet.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __device__
#define __global__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// Of all fibers of a block: they run on one thread.
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct dim3 { u32 x, y, z; };
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace host {

constexpr u32 STACK = 256 << 10;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[STACK]};
  bool done = false;
};

// The block that runs, and which of its threads does.
struct Block {
  ucontext_t scheduler;
  std::vector<Fiber> fibers;
  u32 running = 0;
  std::function<void()> kernel;
};
inline Block block;

inline void give_way() {
  Fiber& own = block.fibers[block.running];
  swapcontext(&own.context, &block.scheduler);
}

// Where so many threads wait until all that are left are there.
struct Barrier {
  u32 waiting = 0, turn = 0;
  u32 first, count;
  u32 left() const {
    u32 left = 0;
    for (u32 i = first; i < first + count && i < block.fibers.size(); i++) left += !block.fibers[i].done;
    return left;
  }
  void wait() {
    const u32 turn_of_this = turn;
    waiting++;
    while (turn == turn_of_this) {
      // A thread that ended meanwhile is not waited for.
      if (waiting >= left()) {
        waiting = 0;
        turn++;
        return;
      }
      give_way();
    }
  }
};
inline Barrier whole;
inline std::vector<Barrier> warps;
inline std::vector<u64> slots;

inline void entry() {
  block.kernel();
  block.fibers[block.running].done = true;
  give_way();
}

// Runs a kernel as CUDA would.
inline void launch(dim3 grid, u32 threads, std::function<void()> kernel) {
  gridDim = grid;
  blockDim = {threads, 1, 1};
  block.kernel = kernel;
  if (block.fibers.size() != threads) block.fibers = std::vector<Fiber>(threads);
  for (u32 z = 0; z < grid.z; z++)
    for (u32 y = 0; y < grid.y; y++)
      for (u32 x = 0; x < grid.x; x++) {
        blockIdx = {x, y, z};
        whole = Barrier{0, 0, 0, threads};
        warps.clear();
        for (u32 first = 0; first < threads; first += 32) warps.push_back(Barrier{0, 0, first, 32});
        slots.assign((threads + 31) / 32 * 32 * 6, 0);
        for (Fiber& fiber : block.fibers) {
          fiber.done = false;
          getcontext(&fiber.context);
          fiber.context.uc_stack.ss_sp = fiber.stack.get();
          fiber.context.uc_stack.ss_size = STACK;
          fiber.context.uc_link = nullptr;
          makecontext(&fiber.context, entry, 0);
        }
        for (bool runs = true; runs;) {
          runs = false;
          for (block.running = 0; block.running < threads; block.running++) {
            Fiber& fiber = block.fibers[block.running];
            if (fiber.done) continue;
            runs = true;
            threadIdx = {block.running, 0, 0};
            swapcontext(&block.scheduler, &fiber.context);
          }
        }
      }
}

inline u64* slot_of(u32 lane, u32 which = 0) { return &slots[(threadIdx.x / 32 * 32 + lane) * 6 + which]; }

// `give` as bits to all of the warp, and of what they gave what `take` makes.
template <typename V, typename F>
auto exchange(V give, F take) {
  const u32 lane = threadIdx.x % 32;
  Barrier& warp = warps[threadIdx.x / 32];
  memcpy(slot_of(lane), &give, sizeof give);
  warp.wait();
  auto of = [](u32 other) {
    V value;
    memcpy(&value, slot_of(other), sizeof value);
    return value;
  };
  auto taken = take(of, lane);
  warp.wait();
  return taken;
}

}  // namespace host

inline void __syncthreads() { host::whole.wait(); }
inline void __syncwarp() { host::warps[threadIdx.x / 32].wait(); }
inline void __threadfence() {}
template <typename V>
V __shfl_xor_sync(u32, V value, int apart) {
  return host::exchange(value, [&](auto of, u32 lane) { return of(lane ^ apart); });
}
template <typename V>
V __shfl_up_sync(u32, V value, u32 apart) {
  return host::exchange(value, [&](auto of, u32 lane) { return of(lane >= apart ? lane - apart : lane); });
}
// Of what all lanes give one, by `join(so far, lane, its own)`.
template <typename F>
u32 fold(u32 value, u32 from, F join) {
  return host::exchange(value, [&](auto of, u32) {
    u32 all = from;
    for (u32 i = 0; i < 32; i++) all = join(all, i, of(i));
    return all;
  });
}
inline u32 __ballot_sync(u32, bool value) {
  return fold(value, 0, [](u32 all, u32 lane, u32 own) { return all | own << lane; });
}
inline u32 __reduce_max_sync(u32, u32 value) {
  return fold(value, 0, [](u32 all, u32, u32 own) { return std::max(all, own); });
}
inline u32 __reduce_min_sync(u32, u32 value) {
  return fold(value, ~0u, [](u32 all, u32, u32 own) { return std::min(all, own); });
}
template <typename N, typename M>
N atomicAdd(N* to, M more) {
  const N before = *to;
  *to += (N)more;
  return before;
}
template <typename V>
V __ldcg(const V* from) { return *from; }
template <typename V>
V __ldcs(const V* from) { return *from; }
inline float __uint_as_float(u32 bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline u32 __float_as_uint(float x) {
  u32 bits;
  memcpy(&bits, &x, 4);
  return bits;
}
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
template <typename A, typename B>
auto min(A a, B b) { return a < b ? a : b; }
template <typename A, typename B>
auto max(A a, B b) { return a > b ? a : b; }
using std::isfinite;
using std::isnan;

// In the place of ptx.cu.
inline u16 bf16_of(float x) {
  const u32 bits = __float_as_uint(x);
  if (isnan(x)) return 0x7fff;
  return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float of_bf16(u16 bits) { return __uint_as_float((u32)bits << 16); }
inline u16 f16_of(float x) {
  const _Float16 rounded = (_Float16)x;
  u16 bits;
  memcpy(&bits, &rounded, 2);
  return bits;
}
inline float of_f16(u16 bits) {
  _Float16 x;
  memcpy(&x, &bits, 2);
  return (float)x;
}
inline void mma_by(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1, float (*load)(u16)) {
  const u32 lane = threadIdx.x % 32, given[6] = {a0, a1, a2, a3, b0, b1};
  host::Barrier& warp = host::warps[threadIdx.x / 32];
  for (u32 i = 0; i < 6; i++) *host::slot_of(lane, i) = given[i];
  warp.wait();
  const u32 g = lane / 4, t = lane % 4;
  for (u32 of = 0; of < 4; of++) {
    const u32 row = 2 * t + of % 2;
    float sum = 0.f;
    for (u32 other = 0; other < 4; other++)
      for (u32 half = 0; half < 2; half++) {
        const u32 a = (u32)*host::slot_of(4 * g + other, 2 * half + of / 2), b = (u32)*host::slot_of(4 * row + other, 4 + half);
        sum += load((u16)a) * load((u16)b) + load((u16)(a >> 16)) * load((u16)(b >> 16));
      }
    c[of] += sum;
  }
  warp.wait();
}
inline void mma_bf16(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) { mma_by(c, a0, a1, a2, a3, b0, b1, of_bf16); }
inline void mma_f16(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) { mma_by(c, a0, a1, a2, a3, b0, b1, of_f16); }
inline u32 nibbles_under(u32 word, u32 bits) { return (word & 0x000f000fu) | bits; }
inline u32 multiply_bf16x2(u32 a, u32 b) {
  auto product = [](u32 a, u32 b) { return (u32)bf16_of(of_bf16((u16)a) * of_bf16((u16)b)); };
  return product(a, b) | product(a >> 16, b >> 16) << 16;
}
inline void expect(const void*) {}
inline void wait_for_the_one_before() {}
inline void let_the_next_begin() {}
