// Products of 1 to 8 rows with a weight [out, in] on tensor cores: each warp goes over a part of the inputs of 16 outputs. Weights
// are read as MLX packs them. Rows are columns of the tensor core's product, so a row's numbers do not depend on other rows.
//
// The order of inputs in a product of tensor cores is free where both sides have the same: so lane 4g + t takes neighbouring inputs
// of outputs g and g + 8, as they lie in memory, and those inputs of row g, which whoever wrote them has put into the order in which
// they come out of packed words (`place_of`). Bits of weights are put under an exponent: OFFSET + q is exact, products are summed in
// f32, and what OFFSET made too much goes off with the inputs' sums: y += scale * acc + (bias - OFFSET * scale) * sum.

struct Weight {
  const void* w;      // [out, in * BITS / 8] bytes
  const u16* scales;  // [out, in / GROUP]
  const u16* biases;  // the same
  const u16* bias;    // [out], or none
  u32 out;
  u32 first;          // where its outputs begin among those of all
};

// What a product is made of, beside its weights. As `Product` in maker.rs.
struct Of {
  const u16* x;          // [rows, inputs], each 8 in the weight's order
  const float* sums;     // [rows, inputs / TILE]: of x
  const float* squares;  // the same, of an RMS norm's input, whose weight x has already; or none
  float eps;
  u32 rows, inputs;
  u32 split;             // warps for each tile: 1, 2, 4 or 8
};

// Groups of inputs at most.
constexpr u32 MAX_GROUPS = 512;
constexpr u32 WARPS = 8;
// With as many registers as two blocks of a multiprocessor may have the compiler asks for memory early; four chunks of packed weights
// need more.
#define BOUNDS __launch_bounds__(32 * WARPS, AHEAD > 2 && BITS < 16 ? 1 : 2)

// What 4 lanes load of an output at once: INPUTS inputs, as many bytes for each lane.
template <int BYTES>
struct Words;
template <>
struct Words<16> {
  typedef uint4 Type;
};
template <>
struct Words<8> {
  typedef uint2 Type;
};

// What a lane has of some inputs: weights of two outputs, and their scales and biases.
template <int BITS, int GROUP, int INPUTS>
struct Chunk {
  typedef typename Words<INPUTS * BITS / 32>::Type Own;
  // Floats have no groups.
  static constexpr int GROUPS = BITS == 16 ? 0 : INPUTS > GROUP ? INPUTS / GROUP : 1;
  Own w[2];
  u32 scales[2], biases[2];
};

// Where a lane reads them: it goes on from chunk to chunk.
template <int BITS, int GROUP, int INPUTS>
struct Source {
  typedef Chunk<BITS, GROUP, INPUTS> C;
  // Of the scales of a chunk and those of the next, in numbers; where several chunks have one scale it is 0.
  static constexpr u32 SCALES = GROUP > INPUTS ? 0 : INPUTS / GROUP;
  const typename C::Own* w[2];
  const u16* scales[2];
  const u16* biases[2];

  // Behind the last output the last one is read again, and what comes of it goes nowhere.
  __device__ __forceinline__ Source(const Weight& weight, u32 tile, u32 inputs, u32 chunk, int lane) {
#pragma unroll
    for (int of = 0; of < 2; of++) {
      const u64 row = min(tile * TILE + (lane >> 2) + 8 * of, weight.out - 1);
      w[of] = (const typename C::Own*)weight.w + row * (inputs / INPUTS * 4) + (lane & 3) + chunk * 4;
      scales[of] = weight.scales + row * (inputs / GROUP) + chunk * SCALES;
      biases[of] = weight.biases + row * (inputs / GROUP) + chunk * SCALES;
    }
  }

  __device__ __forceinline__ void go_on(u32 chunks) {
#pragma unroll
    for (int of = 0; of < 2; of++) {
      w[of] += chunks * 4;
      scales[of] += chunks * SCALES;
      biases[of] += chunks * SCALES;
    }
  }

  // The one so many behind; `chunk`: which that is.
  __device__ __forceinline__ void load(C& to, int behind, u32 chunk) const {
#pragma unroll
    for (int of = 0; of < 2; of++) {
      to.w[of] = __ldcs(w[of] + behind * 4);
      if (C::GROUPS == 2) {
        to.scales[of] = ((const u32*)scales[of])[behind];
        to.biases[of] = ((const u32*)biases[of])[behind];
      } else if (C::GROUPS == 1) {
        const u32 at = SCALES > 0 ? behind * SCALES : chunk * INPUTS / GROUP;
        to.scales[of] = scales[of][at];
        to.biases[of] = biases[of][at];
      }
    }
  }
};

// Two numbers of 4 bits, these bits on, as OFFSET + q. One instruction beside the shift: of the two constants it takes only one
// as such, and left to itself the compiler makes two.
template <typename T>
__device__ __forceinline__ u32 unpacked(u32 word, int shift) {
  u32 bits;
  asm("lop3.b32 %0, %1, 0x000f000f, %2, 0xea;" : "=r"(bits) : "r"(word >> shift), "r"(T::MAGIC));
  return bits;
}

// 8 inputs of two outputs by 4 bits: acc += the words times x.
template <typename T>
__device__ __forceinline__ void multiply_words(float (&acc)[4], u32 low, u32 high, const uint4& x) {
  T::mma(acc, unpacked<T>(low, 0), unpacked<T>(high, 0), unpacked<T>(low, 4), unpacked<T>(high, 4), x.x, x.y);
  T::mma(acc, unpacked<T>(low, 8), unpacked<T>(high, 8), unpacked<T>(low, 12), unpacked<T>(high, 12), x.z, x.w);
}

// The first of a chunk's inputs that lane 4g + t multiplies with.
template <int BITS, int GROUP, int INPUTS>
__device__ __forceinline__ u32 first_of(u32 t) {
  return BITS == 4 && GROUP < INPUTS ? 32 * (t & 1) + 16 * (t >> 1) : INPUTS / 4 * t;
}

// total [16, 8] += the chunk times x; own: the row of this lane, from `first_of` the chunk on; sums [groups, MAX_ROWS], from the chunk's
// first group and the lane's rows on
template <typename T, int BITS, int GROUP, int INPUTS>
__device__ __forceinline__ void multiply(
    float (&total)[4], const Chunk<BITS, GROUP, INPUTS>& chunk, const u16* own, const float* sums, int lane) {
  const auto& w = chunk.w;
  auto x = [&](u32 at) { return *(const uint4*)(own + at); };
  auto add = [&](const float (&acc)[4], float offset, u32 half) {
    const float2 sum = *(const float2*)(sums + half * MAX_ROWS);
#pragma unroll
    for (int of = 0; of < 2; of++) {
      const float scale = T::load((u16)(chunk.scales[of] >> (16 * half)));
      const float bias = T::load((u16)(chunk.biases[of] >> (16 * half))) - offset * scale;
      total[2 * of] += scale * acc[2 * of] + bias * sum.x;
      total[2 * of + 1] += scale * acc[2 * of + 1] + bias * sum.y;
    }
  };
  if constexpr (BITS == 16) {
    const uint4 b = x(0);
    T::mma(total, w[0].x, w[1].x, w[0].y, w[1].y, b.x, b.y);
    T::mma(total, w[0].z, w[1].z, w[0].w, w[1].w, b.z, b.w);
  } else if constexpr (BITS == 8) {
    // 4 inputs a word, the low halves of its bytes and the high ones.
    float acc[4] = {0.f, 0.f, 0.f, 0.f}, upper[4] = {0.f, 0.f, 0.f, 0.f};
    const u32 low[4] = {w[0].x, w[0].y, w[0].z, w[0].w}, high[4] = {w[1].x, w[1].y, w[1].z, w[1].w};
    const uint4 x0 = x(0), x1 = x(8);
    const u32 b[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
    auto bits = [](u32 word, int shift) { return unpacked<T>(word, shift); };
#pragma unroll
    for (int i = 0; i < 4; i++) {
      T::mma(acc, bits(low[i], 0), bits(high[i], 0), bits(low[i], 8), bits(high[i], 8), b[2 * i], b[2 * i + 1]);
      T::mma(upper, bits(low[i], 4), bits(high[i], 4), bits(low[i], 12), bits(high[i], 12), b[2 * i], b[2 * i + 1]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) acc[i] += 16.f * upper[i];
    add(acc, 17.f * T::OFFSET, 0);
  } else if constexpr (INPUTS == 64) {
    float acc[4] = {0.f, 0.f, 0.f, 0.f};
    multiply_words<T>(acc, w[0].x, w[1].x, x(0));
    multiply_words<T>(acc, w[0].y, w[1].y, x(8));
    add(acc, T::OFFSET, 0);
  } else if constexpr (GROUP == INPUTS) {
    float acc[4] = {0.f, 0.f, 0.f, 0.f};
    multiply_words<T>(acc, w[0].x, w[1].x, x(0));
    multiply_words<T>(acc, w[0].y, w[1].y, x(8));
    multiply_words<T>(acc, w[0].z, w[1].z, x(16));
    multiply_words<T>(acc, w[0].w, w[1].w, x(24));
    add(acc, T::OFFSET, 0);
  } else {
    static_assert(2 * GROUP == INPUTS);
    // Lanes 0 and 1 have inputs of the first group, 2 and 3 of the second. All four are to have some of each: half goes over.
    const bool second = (lane & 3) >= 2;
    uint2 words[2][2];
#pragma unroll
    for (int of = 0; of < 2; of++) {
      const uint4 had = w[of];
      const u32 given[2] = {second ? had.x : had.z, second ? had.y : had.w};
      const u32 got[2] = {__shfl_xor_sync(ALL_LANES, given[0], 2), __shfl_xor_sync(ALL_LANES, given[1], 2)};
      words[0][of] = second ? make_uint2(got[0], got[1]) : make_uint2(had.x, had.y);
      words[1][of] = second ? make_uint2(had.z, had.w) : make_uint2(got[0], got[1]);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float acc[4] = {0.f, 0.f, 0.f, 0.f};
      multiply_words<T>(acc, words[half][0].x, words[half][1].x, x(GROUP * half));
      multiply_words<T>(acc, words[half][0].y, words[half][1].y, x(GROUP * half + 8));
      add(acc, T::OFFSET, half);
    }
  }
}

// A block's memory: what each warp has found of its tile, by outputs g and g + 8 of rows 2t and 2t + 1.
__shared__ float found[WARPS][4][32];
// What an RMS norm multiplies each row with.
__shared__ float norm_of[MAX_ROWS];

// A tile [16, 8] by some of the inputs: those of each AHEAD-th chunks from `own` on, of `split` such; into `found`. AHEAD chunks are loaded
// while as many are computed; the inputs are whole AHEAD chunks. For all threads of a block.
template <typename T, int BITS, int GROUP, int INPUTS, int AHEAD>
__device__ __forceinline__ void multiply_tile(const Of& of, const Weight& weight, u32 tile, u32 own) {
  typedef Chunk<BITS, GROUP, INPUTS> C;
  __shared__ __align__(16) float sums[C::GROUPS == 0 ? 1 : MAX_GROUPS * MAX_ROWS];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const u32 t = lane & 3, chunks = of.inputs / INPUTS, step = of.split * AHEAD;
  u32 first = own * AHEAD;
  const bool works = tile * TILE < weight.out && first < chunks;

  C loaded[AHEAD];
  Source<BITS, GROUP, INPUTS> source(weight, tile, of.inputs, first, lane);
  auto load = [&](C(&to)[AHEAD], u32 from) {
#pragma unroll
    for (int i = 0; i < AHEAD; i++) source.load(to[i], i, from + i);
  };
  let_the_next_begin();
  if (works) load(loaded, first);
  wait_for_the_one_before();

  // Each warp has the sum of one row's squares.
  const u32 tiles = of.inputs / TILE;
  if (of.squares && warp < of.rows) {
    float sum = 0.f;
    for (u32 i = lane; i < tiles; i += 32) sum += of.squares[warp * tiles + i];
    sum = sum_over(sum, 32);
    if (lane == 0) norm_of[warp] = rsqrtf(sum / of.inputs + of.eps);
  }
  if constexpr (C::GROUPS > 0) {
    constexpr u32 EACH = GROUP / TILE;
    const u32 groups = of.inputs / GROUP;
    for (u32 at = threadIdx.x; at < of.rows * groups; at += blockDim.x) {
      const u32 row = at / groups, group = at % groups;
      const float4* from = (const float4*)(of.sums + row * tiles + group * EACH);
      float sum = 0.f;
#pragma unroll
      for (u32 i = 0; i < EACH / 4; i++) sum += (from[i].x + from[i].y) + (from[i].z + from[i].w);
      sums[group * MAX_ROWS + row] = sum;
    }
    __syncthreads();
  }
  float y[4] = {0.f, 0.f, 0.f, 0.f};
  if (works) {
    constexpr u32 EACH_SUMS = C::GROUPS * MAX_ROWS;
    // Columns behind the last row are the last row once more, and go nowhere.
    const u32 row = min((u32)lane >> 2, of.rows - 1);
    const u16* x = of.x + row * of.inputs + first * INPUTS + first_of<BITS, GROUP, INPUTS>(t);
    const float* own_sums = sums + 2 * t + EACH_SUMS * first;
    while (true) {
      const u32 next = first + step;
      C behind[AHEAD];
      const bool more = next < chunks;
      source.go_on(step);
      if (more) load(behind, next);
#pragma unroll
      for (int i = 0; i < AHEAD; i++)
        multiply<T, BITS, GROUP, INPUTS>(
            y, loaded[i], x + i * INPUTS,
            GROUP > INPUTS ? sums + 2 * t + (first + i) * INPUTS / GROUP * MAX_ROWS : own_sums + i * EACH_SUMS, lane);
      if (!more) break;
      x += step * INPUTS;
      own_sums += step * EACH_SUMS;
#pragma unroll
      for (int i = 0; i < AHEAD; i++) loaded[i] = behind[i];
      first = next;
    }
  }
#pragma unroll
  for (int k = 0; k < 4; k++) found[warp][k][lane] = y[k];
  __syncthreads();
}

// y: what `split` warps from this one on have found, through the norm and with the weight's bias
template <typename T>
__device__ __forceinline__ void collect(float (&y)[4], const Of& of, const Weight& weight, u32 tile, u32 warp) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    y[k] = found[warp][k][lane];
#pragma unroll 1
    for (u32 other = 1; other < of.split; other++) y[k] += found[warp + other][k][lane];
    const u32 row = 2 * (lane & 3) + (k & 1), out = tile * TILE + (lane >> 2) + 8 * (k >> 1);
    if (of.squares && row < of.rows) y[k] *= norm_of[row];
    if (weight.bias && out < weight.out) y[k] += T::load(weight.bias[out]);
  }
}

// A tile by one weight, in the lanes of the warp that this is true for. For all threads of a block.
template <typename T, int BITS, int GROUP, int INPUTS, int AHEAD>
__device__ __forceinline__ bool tile_of(float (&y)[4], const Of& of, const Weight& weight, u32 tile) {
  const u32 warp = threadIdx.x >> 5, own = warp % of.split;
  multiply_tile<T, BITS, GROUP, INPUTS, AHEAD>(of, weight, tile, own);
  if (own != 0 || tile * TILE >= weight.out) return false;
  collect<T>(y, of, weight, tile, warp);
  return true;
}

// The tile of this warp.
__device__ __forceinline__ u32 own_tile(u32 split) { return blockIdx.x * (WARPS / split) + (threadIdx.x >> 5) / split; }

// What is in the lanes of a warp, as `tile_of` gives it: `use(row, output, k)` of each that is there.
template <typename F>
__device__ __forceinline__ void each_of(u32 tile, u32 rows, u32 out, F use) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const u32 row = 2 * (lane & 3) + (k & 1), at = tile * TILE + (lane >> 2) + 8 * (k >> 1);
    if (row < rows && at < out) use(row, at, k);
  }
}

// Over the outputs of a tile, of numbers of rows 2t and 2t + 1 → [rows, tiles]
__device__ __forceinline__ void sum_of_tile(float (&of)[2], u32 tile, u32 rows, u32 tiles, float* to) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    for (int apart = 4; apart < 32; apart *= 2) of[i] += __shfl_xor_sync(ALL_LANES, of[i], apart);
    const u32 row = 2 * (lane & 3) + i;
    if (lane < 4 && row < rows) to[row * tiles + tile] = of[i];
  }
}

// Up to three weights, such as those of queries, keys and values (`out` 0: none) → y [rows, width] f32
template <typename T, int BITS, int GROUP, int INPUTS, int AHEAD>
__global__ void BOUNDS project(Of of, Weight a, Weight b, Weight c, u32 width, float* y) {
  u32 tile = own_tile(of.split);
  const u32 behind_a = (a.out + TILE - 1) / TILE, behind_b = behind_a + (b.out + TILE - 1) / TILE;
  Weight weight = a;
  if (tile >= behind_b && c.out > 0) {
    weight = c;
    tile -= behind_b;
  } else if (tile >= behind_a && b.out > 0) {
    weight = b;
    tile -= behind_a;
  }
  float out[4];
  if (!tile_of<T, BITS, GROUP, INPUTS, AHEAD>(out, of, weight, tile)) return;
  each_of(tile, of.rows, weight.out, [&](u32 row, u32 at, int k) { y[(u64)row * width + weight.first + at] = out[k]; });
}

// h [rows, out] += multiplier * product; and what the next norm's weight makes of it, in the next weight's order, with sums of that
// and of the squares of h by tiles.
template <typename T, int BITS, int GROUP, int INPUTS, int AHEAD>
__global__ void BOUNDS residual(
    Of of, Weight weight, float multiplier, const u16* norm, float* h, u16* normed, u32 order, float* sums, float* squares) {
  const u32 tile = own_tile(of.split);
  float out[4];
  if (!tile_of<T, BITS, GROUP, INPUTS, AHEAD>(out, of, weight, tile)) return;
  float square[2] = {0.f, 0.f}, sum[2] = {0.f, 0.f};
  each_of(tile, of.rows, weight.out, [&](u32 row, u32 at, int k) {
    const u64 start = (u64)row * weight.out;
    const float x = h[start + at] + multiplier * out[k];
    const u16 own = T::round(x * T::load(norm[at]));
    h[start + at] = x;
    normed[start + place_of(at, order)] = own;
    square[k & 1] += x * x;
    sum[k & 1] += T::load(own);
  });
  sum_of_tile(square, tile, of.rows, weight.out / TILE, squares);
  sum_of_tile(sum, tile, of.rows, weight.out / TILE, sums);
}

// f(gate) * up → y [rows, out], in the next weight's order, with sums by tiles. Of a tile half of the warps have the gate, half up.
template <typename T, int BITS, int GROUP, int INPUTS, int AHEAD, int ACTIVATION>
__global__ void BOUNDS gated(Of of, Weight gate, Weight up, u16* y, u32 order, float* sums) {
  const u32 warp = threadIdx.x >> 5, half = warp / of.split % 2, own = warp % of.split;
  const u32 tile = own_tile(2 * of.split);
  multiply_tile<T, BITS, GROUP, INPUTS, AHEAD>(of, half ? up : gate, tile, own);
  if (half != 0 || own != 0 || tile * TILE >= gate.out) return;
  float gates[4], ups[4], sum[2] = {0.f, 0.f};
  collect<T>(gates, of, gate, tile, warp);
  collect<T>(ups, of, up, tile, warp + of.split);
  each_of(tile, of.rows, gate.out, [&](u32 row, u32 at, int k) {
    const float x = gates[k];
    float f;
    if (ACTIVATION == 0) f = x / (1.f + expf(-x));                                                   // silu
    if (ACTIVATION == 1) f = 0.5f * x * (1.f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));  // gelu, by tanh
    if (ACTIVATION == 2) f = 0.5f * x * (1.f + erff(x * 0.7071067812f));                             // gelu
    const u16 own = T::round(f * ups[k]);
    y[(u64)row * gate.out + place_of(at, order)] = own;
    sum[k & 1] += T::load(own);
  });
  sum_of_tile(sum, tile, of.rows, gate.out / TILE, sums);
}

// → the step's logits [rows, out], and the largest of each tile [rows, tiles]
template <typename T, int BITS, int GROUP, int INPUTS, int AHEAD>
__global__ void BOUNDS head(Of of, Weight weight, const Inputs* inputs, Largest* largest) {
  const u32 tile = own_tile(of.split);
  float out[4];
  if (!tile_of<T, BITS, GROUP, INPUTS, AHEAD>(out, of, weight, tile)) return;
  Largest own[2] = {{MINUS_INFINITY, ~0u}, {MINUS_INFINITY, ~0u}};
  each_of(tile, of.rows, weight.out, [&](u32 row, u32 at, int k) {
    const u16 logit = T::round(out[k]);
    inputs->logits[(u64)row * weight.out + at] = logit;
    const float value = T::load(logit);
    own[k & 1] = larger(own[k & 1], {value == -MINUS_INFINITY ? NOT_A_NUMBER : value, at});
  });
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    for (int apart = 4; apart < 32; apart *= 2) {
      const float value = __shfl_xor_sync(ALL_LANES, own[i].value, apart);
      own[i] = larger(own[i], {value, __shfl_xor_sync(ALL_LANES, own[i].at, apart)});
    }
    const u32 row = 2 * (lane & 3) + i;
    if (lane < 4 && row < of.rows) largest[row * ((weight.out + TILE - 1) / TILE) + tile] = own[i];
  }
}

// The largest of each row's tiles. A block for each row.
__global__ void __launch_bounds__(256) pick(const Inputs* inputs, const Largest* largest, u32 tiles) {
  __shared__ Largest warps[8];
  let_the_next_begin();
  wait_for_the_one_before();
  const u32 row = blockIdx.x;
  Largest own = {MINUS_INFINITY, ~0u};
  for (u32 i = threadIdx.x; i < tiles; i += blockDim.x) own = larger(own, largest[row * tiles + i]);
  for (int apart = 16; apart > 0; apart /= 2) {
    const float value = __shfl_xor_sync(ALL_LANES, own.value, apart);
    own = larger(own, {value, __shfl_xor_sync(ALL_LANES, own.at, apart)});
  }
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = own;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (u32 i = 1; i < 8; i++) own = larger(own, warps[i]);
  // Of numbers that are all -infinity the first.
  *inputs->best[row] = own.at == ~0u ? 0 : own.at;
  inputs->levels[row][0] = inputs->levels[row][1] = own.value;
}
