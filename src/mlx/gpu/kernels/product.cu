// Products of 1 to 8 rows with a weight [out, in] on tensor cores: each warp goes over a part of the inputs of 16 outputs. Weights
// are read as MLX packs them. Rows are columns of the tensor core's product, so a row's numbers do not depend on other rows.

// What a product is made of, beside its weights. As `Product` in maker/products.rs.
struct Of {
  const u16* x;          // [rows, inputs], each 8 in the weight's order
  const float* sums;     // [rows, inputs / TILE]: of x
  const float* squares;  // the same, of an RMS norm's input, whose weight x has already; or none
  float eps;
  u32 rows, inputs;
  u32 split;             // warps for each tile: 1, 2, 4 or 8
  u32 number, numbers;   // of the weights the first one's number, and how many have one
  const Inputs* adapted; // where rows' adapters are; or none
  const float* lows;     // [MAX_ROWS, numbers, parts, MAX_RANK]: scale * (x A) of parts of the inputs (`low`)
  u32 parts;
};

// Groups of inputs at most.
constexpr u32 MAX_GROUPS = 512;
constexpr u32 WARPS = 8;
// With as many registers as two blocks of a multiprocessor may have the compiler asks for memory early; four chunks of packed weights, of
// 16 bytes for a lane, need more.
#define BOUNDS __launch_bounds__(32 * WARPS, BITS != 16 && AHEAD * INPUTS * width_of(BITS) / 32 > 40 ? 1 : 2)

// A block's memory: what each warp has found of its tile, by outputs g and g + 8 of rows 2t and 2t + 1.
__shared__ float found[WARPS][4][32];
// What an RMS norm multiplies each row with.
__shared__ float norm_of[MAX_ROWS];

// Of an adapter at most. Weights that share their input.
constexpr u32 MAX_RANK = 64, MAX_NUMBERS = 3;
// Inputs of x of which a block of `low` makes scale * (x A).
constexpr u32 LOW_PART = 1024;
// What adapters add to a block's products, and scale * (x A) of it.
__shared__ Low lows[MAX_NUMBERS][MAX_ROWS];
__shared__ float factors[MAX_NUMBERS][MAX_ROWS][MAX_RANK];

// Which adapters there are. Nothing of it is a kernel's, so this goes before the wait. For all threads of a block.
__device__ __forceinline__ void find_lows(const Of& of) {
  if (!of.adapted) return;
  if (threadIdx.x < of.numbers * of.rows) {
    const u32 number = threadIdx.x / of.rows, row = threadIdx.x % of.rows;
    const Low* all = of.adapted->lows[row];
    const Low none = {nullptr, nullptr, 0.f, 0};
    lows[number][row] = all ? all[of.number + number] : none;
  }
  __syncthreads();
}

// This tile's part of B into the cache that all blocks share.
__device__ __forceinline__ void expect_lows(const Of& of, const Weight& weight, u32 tile) {
  if (!of.adapted || tile * TILE >= weight.out) return;
  const u32 number = weight.number - of.number;
  for (u32 row = 0; row < of.rows; row++) {
    const Low& low = lows[number][row];
    for (u32 r = threadIdx.x % 32; r < low.rank; r += 32)
      expect(low.b + (u64)r * weight.width + weight.column + tile * TILE);
  }
}

// scale * (x A), of all parts. For all threads of a block; a barrier has to follow.
__device__ __forceinline__ void sum_lows(const Of& of) {
  if (!of.adapted) return;
  for (u32 at = threadIdx.x; at < of.numbers * of.rows * MAX_RANK; at += blockDim.x) {
    const u32 r = at % MAX_RANK, row = at / MAX_RANK % of.rows, number = at / MAX_RANK / of.rows;
    if (r >= lows[number][row].rank) continue;
    const float* from = of.lows + (u64)(row * of.numbers + number) * of.parts * MAX_RANK + r;
    float sum = 0.f;
    for (u32 part = 0; part < of.parts; part++) sum += from[part * MAX_RANK];
    factors[number][row][r] = sum;
  }
}

// What the row's adapter adds to this output.
template <typename T>
__device__ __forceinline__ float low_of(const Of& of, const Weight& weight, u32 row, u32 out) {
  const u32 number = weight.number - of.number;
  const Low& low = lows[number][row];
  const u16* b = low.b + weight.column + out;
  float sum = 0.f;
#pragma unroll 8
  for (u32 r = 0; r < low.rank; r++) sum += factors[number][row][r] * T::load(b[(u64)r * weight.width]);
  return sum;
}

// The same of one row, for all lanes of a warp.
__device__ __forceinline__ float norm_of_row(const Of& of, u32 row) {
  const u32 tiles = of.inputs / TILE;
  float sum = 0.f;
  for (u32 i = threadIdx.x & 31; i < tiles; i += 32) sum += of.squares[row * tiles + i];
  return rsqrtf(sum_over(sum, 32) / of.inputs + of.eps);
}

// Of x's groups of each row, out of the sums of its tiles → [groups, MAX_ROWS]. For all threads of a block.
template <int GROUP>
__device__ __forceinline__ void sum_groups(const Of& of, float* sums) {
  constexpr u32 EACH = GROUP / TILE;
  const u32 tiles = of.inputs / TILE, groups = of.inputs / GROUP;
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

template <int BITS, int GROUP, int INPUTS, int AHEAD>
__device__ __forceinline__ void load_ahead(
    Chunk<BITS, GROUP, INPUTS> (&to)[AHEAD], const Source<BITS, GROUP, INPUTS>& source, u32 first) {
#pragma unroll
  for (int i = 0; i < AHEAD; i++) source.load(to[i], i, first + i);
}

// y [16, 8] += AHEAD chunks from `first` on, which are loaded, and as many from each `step` behind them: those are loaded while these are
// computed. x: of this lane's row the first input; sums [groups, MAX_ROWS].
template <typename T, int BITS, int GROUP, int INPUTS, int AHEAD>
__device__ __forceinline__ void multiply_chunks(
    float (&y)[4], Chunk<BITS, GROUP, INPUTS> (&loaded)[AHEAD], Source<BITS, GROUP, INPUTS>& source, const u16* x, const float* sums,
    u32 first, u32 step, u32 chunks) {
  typedef Chunk<BITS, GROUP, INPUTS> C;
  constexpr u32 EACH_SUMS = C::GROUPS * MAX_ROWS;
  const int lane = threadIdx.x & 31;
  const u32 t = lane & 3;
  x += first * INPUTS + first_of<BITS, GROUP, INPUTS>(t);
  const float* own_sums = sums + 2 * t + EACH_SUMS * first;
  while (true) {
    const u32 next = first + step;
    C behind[AHEAD];
    const bool more = next < chunks;
    source.go_on(step);
    if (more) load_ahead(behind, source, next);
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

// A tile [16, 8] by some of the inputs: those of each AHEAD-th chunks from `own` on, of `split` such; into `found`. The inputs are whole
// AHEAD chunks. For all threads of a block.
template <typename T, int BITS, int GROUP, int INPUTS, int AHEAD>
__device__ __forceinline__ void multiply_tile(const Of& of, const Weight& weight, u32 tile, u32 own) {
  typedef Chunk<BITS, GROUP, INPUTS> C;
  __shared__ __align__(16) float sums[C::GROUPS == 0 ? 1 : MAX_GROUPS * MAX_ROWS];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const u32 chunks = of.inputs / INPUTS, step = of.split * AHEAD, first = own * AHEAD;
  const bool works = tile * TILE < weight.out && first < chunks;

  C loaded[AHEAD];
  Source<BITS, GROUP, INPUTS> source(weight, tile, of.inputs, first, lane);
  let_the_next_begin();
  if (works) load_ahead(loaded, source, first);
  find_lows(of);
  if (own == 0) expect_lows(of, weight, tile);
  wait_for_the_one_before();

  sum_lows(of);
  // Each warp has the sum of one row's squares.
  if (of.squares && warp < of.rows) {
    const float by = norm_of_row(of, warp);
    if (lane == 0) norm_of[warp] = by;
  }
  if constexpr (C::GROUPS > 0) sum_groups<GROUP>(of, sums);
  float y[4] = {0.f, 0.f, 0.f, 0.f};
  if (works) {
    // Columns behind the last row are the last row once more, and go nowhere.
    const u32 row = min((u32)lane >> 2, of.rows - 1);
    multiply_chunks<T, BITS, GROUP, INPUTS, AHEAD>(y, loaded, source, of.x + row * of.inputs, sums, first, step, chunks);
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
    if (of.adapted && row < of.rows && out < weight.out) y[k] += low_of<T>(of, weight, row, out);
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

// h += multiplier * a tile [16, 8], with all that comes along.
template <typename T>
__device__ __forceinline__ void add_tile(const float (&out)[4], u32 tile, u32 rows, u32 width, const Residual& to) {
  float square[2] = {0.f, 0.f}, sum[2] = {0.f, 0.f};
  each_of(tile, rows, width, [&](u32 row, u32 at, int k) {
    const u64 start = (u64)row * width;
    const float x = to.h[start + at] + to.multiplier * out[k];
    const u16 own = T::round(x * T::load(to.norm[at]));
    to.h[start + at] = x;
    to.normed[start + place_of(at, to.order)] = own;
    square[k & 1] += x * x;
    sum[k & 1] += T::load(own);
  });
  sum_of_tile(square, tile, rows, width / TILE, to.squares);
  sum_of_tile(sum, tile, rows, width / TILE, to.sums);
}

template <typename T, int BITS, int GROUP, int INPUTS, int AHEAD>
__global__ void BOUNDS residual(Of of, Weight weight, Residual to) {
  const u32 tile = own_tile(of.split);
  float out[4];
  if (!tile_of<T, BITS, GROUP, INPUTS, AHEAD>(out, of, weight, tile)) return;
  add_tile<T>(out, tile, of.rows, weight.out, to);
}

// What comes between an MLP's products. As `Inner` in maker/mlp.rs.
struct Inner {
  u16* y;             // [rows, width], in the next weight's order
  float* sums;        // [rows, width / TILE]: of y
  const float* by;    // what it is multiplied by: [rows]; or none
  u32 order;
  float alpha, limit; // of a swiglu that is clamped
};

// (NaN is no more than a limit, and stays.)
template <int ACTIVATION>
__device__ __forceinline__ float activated(float x, float up, float alpha, float limit) {
  if (ACTIVATION == 0) return up * x / (1.f + expf(-x));                                                   // silu
  if (ACTIVATION == 1) return up * 0.5f * x * (1.f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));  // gelu, by tanh
  if (ACTIVATION == 2) return up * 0.5f * x * (1.f + erff(x * 0.7071067812f));                             // gelu
  x = x > limit ? limit : x;                                                                               // a clamped swiglu
  up = up > limit ? limit : up < -limit ? -limit : up;
  return (up + 1.f) * x / (1.f + expf(-alpha * x));
}

// f(gate) * up, by tiles. Of a tile half of the warps have the gate, half up.
template <typename T, int BITS, int GROUP, int INPUTS, int AHEAD, int ACTIVATION>
__device__ __forceinline__ void gated_tile(const Of& of, const Weight& gate, const Weight& up, const Inner& to) {
  const u32 warp = threadIdx.x >> 5, half = warp / of.split % 2, own = warp % of.split;
  const u32 tile = own_tile(2 * of.split);
  multiply_tile<T, BITS, GROUP, INPUTS, AHEAD>(of, either(half == 0, gate, up), tile, own);
  if (half != 0 || own != 0 || tile * TILE >= gate.out) return;
  float gates[4], ups[4], sum[2] = {0.f, 0.f};
  collect<T>(gates, of, gate, tile, warp);
  collect<T>(ups, of, up, tile, warp + of.split);
  each_of(tile, of.rows, gate.out, [&](u32 row, u32 at, int k) {
    const float x = activated<ACTIVATION>(gates[k], ups[k], to.alpha, to.limit);
    const u16 own = T::round(to.by ? to.by[row] * x : x);
    to.y[(u64)row * gate.out + place_of(at, to.order)] = own;
    sum[k & 1] += T::load(own);
  });
  sum_of_tile(sum, tile, of.rows, gate.out / TILE, to.sums);
}

template <typename T, int BITS, int GROUP, int INPUTS, int AHEAD, int ACTIVATION>
__global__ void BOUNDS gated(Of of, Weight gate, Weight up, Inner to) {
  gated_tile<T, BITS, GROUP, INPUTS, AHEAD, ACTIVATION>(of, gate, up, to);
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
    own[i] = largest_over(own[i], 4);
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
  own = largest_over(own);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = own;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (u32 i = 1; i < 8; i++) own = larger(own, warps[i]);
  // Of numbers that are all -infinity the first.
  *inputs->best[row] = own.at == ~0u ? 0 : own.at;
  inputs->levels[row][0] = inputs->levels[row][1] = own.value;
}
