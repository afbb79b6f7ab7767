// Products of 1 to 8 rows with a weight [out, in] on tensor cores: each warp goes over a part of the inputs of 16 outputs. Weights
// are read as MLX packs them. Rows are columns of the tensor core's product, so a row's numbers do not depend on other rows.
//
// The order of inputs in a product of tensor cores is free where both sides have the same: so lane 4g + t takes neighbouring inputs
// of outputs g and g + 8, as they lie in memory, and those inputs of row g. Bits of weights are put under an exponent: OFFSET + q is
// exact, products are summed in f32, and what OFFSET made too much goes off with the sum of the inputs, which a product with ones
// gives in the same lanes: y += scale * acc + (bias - OFFSET * scale) * sum.

struct Weight {
  const uint4* w;     // [out, in * BITS / 128]
  const u16* scales;  // [out, in / GROUP]
  const u16* biases;  // the same
  const u16* bias;    // [out], or none
  u32 out;
  u32 first;          // where its outputs begin among those of all
};

// Inputs of a weight that a warp takes at a time, 16 bytes of each of 16 outputs by 4 lanes.
template <int BITS>
__host__ __device__ constexpr u32 chunk_of() { return 4 * 128 / BITS; }

// What a lane has of a chunk: weights of two outputs, and of each group their scales and biases.
template <int BITS, int GROUP>
struct Chunk {
  static constexpr u32 INPUTS = chunk_of<BITS>();
  // Groups in a chunk, and in numbers for each output: none of floats.
  static constexpr u32 GROUPS = BITS == 16 ? 0 : (INPUTS > GROUP ? INPUTS / GROUP : 1);
  uint4 low, high;
  u32 scales[2], biases[2];
};

template <int BITS, int GROUP>
__device__ __forceinline__ void load_chunk(
    Chunk<BITS, GROUP>& to, const Weight& weight, u32 tile, u32 chunk, u32 inputs, int lane) {
  using C = Chunk<BITS, GROUP>;
  const u32 g = lane >> 2, t = lane & 3;
  const bool inside = (chunk * 4 + t) * (128 / BITS) < inputs;
  const u32 row[2] = {tile * TILE + g, tile * TILE + g + 8};
  const u32 stride = inputs * BITS / 128;
  to.low = to.high = make_uint4(0, 0, 0, 0);
  if (inside && row[0] < weight.out) to.low = __ldcs(weight.w + (u64)row[0] * stride + chunk * 4 + t);
  if (inside && row[1] < weight.out) to.high = __ldcs(weight.w + (u64)row[1] * stride + chunk * 4 + t);
  if (C::GROUPS == 0) return;
  const u32 groups = inputs / GROUP;
  const u32 first = chunk * C::INPUTS / GROUP;
#pragma unroll
  for (int of = 0; of < 2; of++) {
    to.scales[of] = to.biases[of] = 0;
    if (row[of] >= weight.out) continue;
    const u64 at = (u64)row[of] * groups + first;
    if (C::GROUPS == 2 && groups % 2 == 0) {
      to.scales[of] = *(const u32*)(weight.scales + at);
      to.biases[of] = *(const u32*)(weight.biases + at);
      continue;
    }
#pragma unroll
    for (u32 i = 0; i < C::GROUPS; i++) {
      if (first + i >= groups) continue;
      to.scales[of] |= (u32)weight.scales[at + i] << (16 * i);
      to.biases[of] |= (u32)weight.biases[at + i] << (16 * i);
    }
  }
}

__device__ __forceinline__ u32 low_halves(u32 a, u32 b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ u32 high_halves(u32 a, u32 b) { return __byte_perm(a, b, 0x7632); }

// total [16, 8] += the chunk times x [rows, inputs]
template <typename T, int BITS, int GROUP>
__device__ __forceinline__ void multiply(
    float (&total)[4], const Chunk<BITS, GROUP>& c, const u16* x, u32 rows, u32 chunk, u32 inputs, int lane) {
  using C = Chunk<BITS, GROUP>;
  const u32 g = lane >> 2, t = lane & 3;
  const u16* own = x + (u64)g * inputs + (u64)chunk * C::INPUTS;
  const u32 left = inputs - chunk * C::INPUTS;
  const uint4 none = make_uint4(0, 0, 0, 0);
  if constexpr (BITS == 16) {
    const uint4 b = g < rows && t * 8 < left ? *(const uint4*)(own + t * 8) : none;
    T::mma(total, c.low.x, c.high.x, c.low.y, c.high.y, b.x, b.y);
    T::mma(total, c.low.z, c.high.z, c.low.w, c.high.w, b.z, b.w);
    return;
  }
  auto add = [&](const float (&acc)[4], const float (&sum)[4], float offset, u32 group) {
#pragma unroll
    for (int of = 0; of < 2; of++) {
      const float scale = T::load((u16)(c.scales[of] >> (16 * group)));
      const float bias = T::load((u16)(c.biases[of] >> (16 * group))) - offset * scale;
      total[2 * of] += scale * acc[2 * of] + bias * sum[2 * of];
      total[2 * of + 1] += scale * acc[2 * of + 1] + bias * sum[2 * of + 1];
    }
  };
  if constexpr (BITS == 4) {
    // 8 inputs a word.
    auto word = [&](float (&acc)[4], float (&sum)[4], u32 low, u32 high, uint4 b) {
      const u32 pairs[4] = {
          low_halves(b.x, b.z), high_halves(b.x, b.z), low_halves(b.y, b.w), high_halves(b.y, b.w)};
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const u32 a0 = ((low >> (8 * i)) & 0x000f000fu) | T::MAGIC, a2 = ((low >> (8 * i + 4)) & 0x000f000fu) | T::MAGIC;
        const u32 a1 = ((high >> (8 * i)) & 0x000f000fu) | T::MAGIC, a3 = ((high >> (8 * i + 4)) & 0x000f000fu) | T::MAGIC;
        T::mma(acc, a0, a1, a2, a3, pairs[2 * i], pairs[2 * i + 1]);
        T::mma(sum, T::ONES, T::ONES, T::ONES, T::ONES, pairs[2 * i], pairs[2 * i + 1]);
      }
    };
    auto inputs_at = [&](u32 at) { return g < rows && at < left ? *(const uint4*)(own + at) : none; };
    if constexpr (GROUP < C::INPUTS) {
      static_assert(2 * GROUP == C::INPUTS);
      // Lanes 0 and 1 have inputs of the first group, 2 and 3 of the second. All four are to have some of each: half goes over.
      auto swap = [&](const uint4& had, uint2 (&to)[2]) {
        const bool second = t >= 2;
        const u32 given[2] = {second ? had.x : had.z, second ? had.y : had.w};
        const u32 got[2] = {__shfl_xor_sync(ALL_LANES, given[0], 2), __shfl_xor_sync(ALL_LANES, given[1], 2)};
        to[0] = second ? make_uint2(got[0], got[1]) : make_uint2(had.x, had.y);
        to[1] = second ? make_uint2(had.z, had.w) : make_uint2(got[0], got[1]);
      };
      uint2 low[2], high[2];
      swap(c.low, low);
      swap(c.high, high);
#pragma unroll
      for (u32 group = 0; group < 2; group++) {
        const u32 at = GROUP * group + 32 * (t & 1) + 16 * (t >> 1);
        float acc[4] = {0.f, 0.f, 0.f, 0.f}, sum[4] = {0.f, 0.f, 0.f, 0.f};
        word(acc, sum, low[group].x, high[group].x, inputs_at(at));
        word(acc, sum, low[group].y, high[group].y, inputs_at(at + 8));
        add(acc, sum, T::OFFSET, group);
      }
    } else {
      float acc[4] = {0.f, 0.f, 0.f, 0.f}, sum[4] = {0.f, 0.f, 0.f, 0.f};
      word(acc, sum, c.low.x, c.high.x, inputs_at(32 * t));
      word(acc, sum, c.low.y, c.high.y, inputs_at(32 * t + 8));
      word(acc, sum, c.low.z, c.high.z, inputs_at(32 * t + 16));
      word(acc, sum, c.low.w, c.high.w, inputs_at(32 * t + 24));
      add(acc, sum, T::OFFSET, 0);
    }
  } else if constexpr (BITS == 8) {
    // 4 inputs a word, its halves of bytes one after the other.
    float acc[4] = {0.f, 0.f, 0.f, 0.f}, upper[4] = {0.f, 0.f, 0.f, 0.f}, sum[4] = {0.f, 0.f, 0.f, 0.f};
    const u32 low[4] = {c.low.x, c.low.y, c.low.z, c.low.w}, high[4] = {c.high.x, c.high.y, c.high.z, c.high.w};
    const bool inside = g < rows && 16 * t < left;
    const uint4 x0 = inside ? *(const uint4*)(own + 16 * t) : none, x1 = inside ? *(const uint4*)(own + 16 * t + 8) : none;
    const u32 pairs[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const u32 b0 = low_halves(pairs[2 * i], pairs[2 * i + 1]), b1 = high_halves(pairs[2 * i], pairs[2 * i + 1]);
      auto bits = [&](u32 word, int shift) { return ((word >> shift) & 0x000f000fu) | T::MAGIC; };
      T::mma(acc, bits(low[i], 0), bits(high[i], 0), bits(low[i], 8), bits(high[i], 8), b0, b1);
      T::mma(upper, bits(low[i], 4), bits(high[i], 4), bits(low[i], 12), bits(high[i], 12), b0, b1);
      T::mma(sum, T::ONES, T::ONES, T::ONES, T::ONES, b0, b1);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) acc[i] += 16.f * upper[i];
    add(acc, sum, 17.f * T::OFFSET, 0);
  }
}

// What a product is made of, beside its weights. As `Product` in step.rs.
struct Of {
  const u16* x;          // [rows, inputs]
  const float* squares;  // [rows, inputs / TILE]: of an RMS norm's input, whose weight x has already; or none
  float eps;
  u32 rows, inputs;
  u32 split;             // warps for each tile: 1, 2, 4 or 8
};

// y [16, 8] of a tile by each of COUNT weights, in the lanes of the warp that this is true for: outputs g and g + 8 of rows 2t and
// 2t + 1. AHEAD chunks are loaded at once. For all threads of a block.
template <typename T, int BITS, int GROUP, int AHEAD, int COUNT>
__device__ __forceinline__ bool tile_of(
    float (&y)[COUNT][4], const Of& of, const Weight (&weights)[COUNT], u32 tile, bool is_there) {
  constexpr u32 WARPS = 8;
  __shared__ float parts[WARPS][COUNT][4][32];
  __shared__ float by[MAX_ROWS];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  // Each warp has the sum of one row's squares.
  if (of.squares && warp < of.rows) {
    const u32 tiles = of.inputs / TILE;
    float sum = 0.f;
    for (u32 i = lane; i < tiles; i += 32) sum += of.squares[warp * tiles + i];
    sum = sum_over(sum, 32);
    if (lane == 0) by[warp] = rsqrtf(sum / of.inputs + of.eps);
  }
  const u32 own = warp % of.split;
  const u32 chunks = (of.inputs + chunk_of<BITS>() - 1) / chunk_of<BITS>();
  for (int i = 0; i < COUNT; i++)
    for (int k = 0; k < 4; k++) y[i][k] = 0.f;
  if (is_there) {
    for (u32 first = own * AHEAD; first < chunks; first += of.split * AHEAD) {
      Chunk<BITS, GROUP> loaded[AHEAD][COUNT];
#pragma unroll
      for (u32 i = 0; i < AHEAD; i++)
#pragma unroll
        for (int k = 0; k < COUNT; k++) load_chunk<BITS, GROUP>(loaded[i][k], weights[k], tile, first + i, of.inputs, lane);
#pragma unroll
      for (u32 i = 0; i < AHEAD; i++) {
        if (first + i >= chunks) break;
#pragma unroll
        for (int k = 0; k < COUNT; k++)
          multiply<T, BITS, GROUP>(y[k], loaded[i][k], of.x, of.rows, first + i, of.inputs, lane);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < COUNT; i++)
#pragma unroll
    for (int k = 0; k < 4; k++) parts[warp][i][k][lane] = y[i][k];
  __syncthreads();
  if (own != 0 || !is_there) return false;
  const u32 t = lane & 3;
#pragma unroll
  for (int i = 0; i < COUNT; i++)
#pragma unroll
    for (int k = 0; k < 4; k++) {
      for (u32 other = 1; other < of.split; other++) y[i][k] += parts[warp + other][i][k][lane];
      const u32 row = 2 * t + (k & 1);
      if (of.squares && row < of.rows) y[i][k] *= by[row];
      const u32 out = tile * TILE + (lane >> 2) + 8 * (k >> 1);
      if (weights[i].bias && out < weights[i].out) y[i][k] += T::load(weights[i].bias[out]);
    }
  return true;
}

// The tile of this warp.
__device__ __forceinline__ u32 own_tile(u32 split) { return blockIdx.x * (8 / split) + (threadIdx.x >> 5) / split; }

// Up to three weights, such as those of queries, keys and values (`out` 0: none) → y [rows, width] f32
template <typename T, int BITS, int GROUP, int AHEAD>
__global__ void __launch_bounds__(256) project(Of of, Weight a, Weight b, Weight c, u32 width, float* y) {
  u32 tile = own_tile(of.split);
  const u32 behind_a = (a.out + TILE - 1) / TILE, behind_b = behind_a + (b.out + TILE - 1) / TILE;
  Weight weights[1] = {a};
  if (tile >= behind_b && c.out > 0) {
    weights[0] = c;
    tile -= behind_b;
  } else if (tile >= behind_a && b.out > 0) {
    weights[0] = b;
    tile -= behind_a;
  }
  const Weight& own = weights[0];
  float out[1][4];
  if (!tile_of<T, BITS, GROUP, AHEAD, 1>(out, of, weights, tile, tile * TILE < own.out)) return;
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const u32 row = 2 * (lane & 3) + (k & 1), at = tile * TILE + (lane >> 2) + 8 * (k >> 1);
    if (row < of.rows && at < own.out) y[(u64)row * width + own.first + at] = out[0][k];
  }
}

// h [rows, out] += multiplier * product; and what the next norm's weight makes of it, with sums of its squares by tiles.
template <typename T, int BITS, int GROUP, int AHEAD>
__global__ void __launch_bounds__(256) residual(
    Of of, Weight weight, float multiplier, const u16* norm, float* h, u16* normed, float* squares) {
  const u32 tile = own_tile(of.split);
  const Weight weights[1] = {weight};
  float out[1][4];
  if (!tile_of<T, BITS, GROUP, AHEAD, 1>(out, of, weights, tile, tile * TILE < weight.out)) return;
  const int lane = threadIdx.x & 31;
  float square[2] = {0.f, 0.f};
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const u32 row = 2 * (lane & 3) + (k & 1), at = tile * TILE + (lane >> 2) + 8 * (k >> 1);
    if (row >= of.rows || at >= weight.out) continue;
    const u64 place = (u64)row * weight.out + at;
    const float x = h[place] + multiplier * out[0][k];
    h[place] = x;
    normed[place] = T::round(x * T::load(norm[at]));
    square[k & 1] += x * x;
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
    // Over the lanes of all outputs.
    for (int apart = 4; apart < 32; apart *= 2) square[i] += __shfl_xor_sync(ALL_LANES, square[i], apart);
    const u32 row = 2 * (lane & 3) + i;
    if (lane < 4 && row < of.rows) squares[row * (weight.out / TILE) + tile] = square[i];
  }
}

// f(gate) * up → y [rows, out]
template <typename T, int BITS, int GROUP, int AHEAD, int ACTIVATION>
__global__ void __launch_bounds__(256) gated(Of of, Weight gate, Weight up, u16* y) {
  const u32 tile = own_tile(of.split);
  const Weight weights[2] = {gate, up};
  float out[2][4];
  if (!tile_of<T, BITS, GROUP, AHEAD, 2>(out, of, weights, tile, tile * TILE < gate.out)) return;
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const u32 row = 2 * (lane & 3) + (k & 1), at = tile * TILE + (lane >> 2) + 8 * (k >> 1);
    if (row >= of.rows || at >= gate.out) continue;
    const float x = out[0][k];
    float f;
    if (ACTIVATION == 0) f = x / (1.f + expf(-x));                                                      // silu
    if (ACTIVATION == 1) f = 0.5f * x * (1.f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));     // gelu, by tanh
    if (ACTIVATION == 2) f = 0.5f * x * (1.f + erff(x * 0.7071067812f));                                // gelu
    y[(u64)row * gate.out + at] = T::round(f * out[1][k]);
  }
}

// → the step's logits [rows, out]
template <typename T, int BITS, int GROUP, int AHEAD>
__global__ void __launch_bounds__(256) head(Of of, Weight weight, const Inputs* inputs) {
  const u32 tile = own_tile(of.split);
  const Weight weights[1] = {weight};
  float out[1][4];
  if (!tile_of<T, BITS, GROUP, AHEAD, 1>(out, of, weights, tile, tile * TILE < weight.out)) return;
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const u32 row = 2 * (lane & 3) + (k & 1), at = tile * TILE + (lane >> 2) + 8 * (k >> 1);
    if (row < of.rows && at < weight.out) inputs->logits[(u64)row * weight.out + at] = T::round(out[0][k]);
  }
}
