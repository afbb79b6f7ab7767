// What all kernels share: 16-bit floats as their bits, products on tensor cores, sums over a warp, and what changes from step to
// step. No header is included, so that NVRTC needs none.

#define ALL_LANES 0xffffffffu
#define MINUS_INFINITY __uint_as_float(0xff800000u)
#define NOT_A_NUMBER __uint_as_float(0x7fc00000u)

// Rows of a step at most: the columns of a tensor core's product.
constexpr u32 MAX_ROWS = 8;
// Outputs of a product that one tile has, whose squares are one part of a sum (`Residual`).
constexpr u32 TILE = 16;

// Where a row's keys and values of one layer lie. As `Place` in step.rs.
struct Place {
  u16* keys;        // of the first head: [kv_heads, capacity, head_dim]
  u16* values;      // the same
  u64 head_stride;  // numbers from one head to the next
  u32 at;           // where the row's own go
  u32 seen;         // tokens from the first on that it sees, its own among them
  u32 position;
  u32 unused;
};

// What an adapter adds to a product: scale * (x A) B. As `Low` in lows.rs.
struct Low {
  const u16* a;  // [inputs, rank]
  const u16* b;  // [rank, outputs]
  float scale;
  u32 rank;      // 0: nothing; else 8, 16, 32 or 64
};

// What a step reads of the host. As `Inputs` in step.rs; behind it `places`, [layers, MAX_ROWS].
struct Inputs {
  const u32* tokens;         // [rows]
  u16* logits;               // [rows, vocab]
  u32* best[MAX_ROWS];       // of each row the token with the largest logit, the first of such: [1]
  float* levels[MAX_ROWS];   // and that logit, or NaN where NaN or infinity is among them: [2], twice
  const Low* lows[MAX_ROWS]; // of each row's adapters, by the number of the product; or none
};

// The largest of some numbers and which it is; NaN is larger than all.
struct Largest {
  float value;
  u32 at;
};

__device__ __forceinline__ Largest larger(Largest a, Largest b) {
  if (isnan(a.value)) return a;
  const bool second = isnan(b.value) || b.value > a.value || (b.value == a.value && b.at < a.at);
  return second ? b : a;
}

// Over the lanes of a warp that are `apart` or a multiple of it from each other.
__device__ __forceinline__ Largest largest_over(Largest own, int apart = 1) {
  for (int by = 16; by >= apart; by /= 2) {
    const float value = __shfl_xor_sync(ALL_LANES, own.value, by);
    own = larger(own, {value, __shfl_xor_sync(ALL_LANES, own.at, by)});
  }
  return own;
}

// Numbers that are ordered as floats are, with NaN above all, and 0 below.
__device__ __forceinline__ u32 rank_of(float x) {
  if (isnan(x)) return ~0u;
  const u32 bits = __float_as_uint(x + 0.f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

struct Bf16 {
  static __device__ __forceinline__ float load(u16 bits) { return __uint_as_float((u32)bits << 16); }
  static __device__ __forceinline__ u16 round(float x) { return bf16_of(x); }
  // A byte of up to 4 bits under these bits is the number OFFSET + byte, exactly.
  static constexpr u32 MAGIC = 0x43004300u;
  static constexpr float OFFSET = 128.f;
  static constexpr u32 ONES = 0x3f803f80u;
  static __device__ __forceinline__ void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    mma_bf16(c, a0, a1, a2, a3, b0, b1);
  }
};

struct F16 {
  static __device__ __forceinline__ float load(u16 bits) { return of_f16(bits); }
  static __device__ __forceinline__ u16 round(float x) { return f16_of(x); }
  static constexpr u32 MAGIC = 0x64006400u;
  static constexpr float OFFSET = 1024.f;
  static constexpr u32 ONES = 0x3c003c00u;
  static __device__ __forceinline__ void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    mma_f16(c, a0, a1, a2, a3, b0, b1);
  }
};

// Of two neighbours in memory, the first in the low half.
template <typename T>
__device__ __forceinline__ float2 load_pair(u32 bits) {
  return make_float2(T::load((u16)bits), T::load((u16)(bits >> 16)));
}

// Whether this block is the last of so many that come here, whose writes it then sees; the count is 0 again behind it. For all threads of
// a block.
__device__ __forceinline__ bool is_last_of(u32* count, u32 blocks) {
  __shared__ bool is_last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(count, 1) == blocks - 1;
    if (is_last) *count = 0;
  }
  __syncthreads();
  if (is_last) __threadfence();
  return is_last;
}

// Where a product's input goes, so that the halves of each 32 bits come out of packed words together: with 4 bits 0 and 4, 1 and 5,
// 2 and 6, 3 and 7 of 8; with 8 bits 0 and 2, 1 and 3 of 4. With 16 nothing moves.
__device__ __forceinline__ u32 place_of(u32 i, u32 order) {
  if (order == 4) return (i & ~7u) | ((i & 3) << 1) | ((i >> 2) & 1);
  if (order == 8) return (i & ~3u) | ((i & 1) << 1) | ((i >> 1) & 1);
  return i;
}

// Over all lanes whose numbers differ in bits of `width - 1` only: a power of two.
template <typename N>
__device__ __forceinline__ N sum_over(N x, int width) {
  for (int apart = width / 2; apart > 0; apart /= 2) x += __shfl_xor_sync(ALL_LANES, x, apart);
  return x;
}

// What goes from half to half. As `Residual` in maker/products.rs.
struct Residual {
  float* h;           // [rows, width]
  u16* normed;        // [rows, width]: h times the next norm's weight, in the next weight's order
  float* sums;        // [rows, width / TILE]: of `normed`
  float* squares;     // the same, of the squares of h
  const u16* norm;    // [width]: the next norm's weight
  float multiplier;   // of what is added
  u32 order;
};

// A row's number i becomes x. For whole tiles of lanes.
template <typename T>
__device__ __forceinline__ void put_number(const Residual& to, u32 row, u32 width, u32 i, float x) {
  const u64 start = (u64)row * width;
  const u16 own = T::round(x * T::load(to.norm[i]));
  to.h[start + i] = x;
  to.normed[start + place_of(i, to.order)] = own;
  const float square = sum_over(x * x, TILE), sum = sum_over(T::load(own), TILE);
  if (i % TILE == 0) {
    to.squares[(start + i) / TILE] = square;
    to.sums[(start + i) / TILE] = sum;
  }
}
