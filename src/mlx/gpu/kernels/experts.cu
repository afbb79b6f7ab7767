// A mixture of experts. Which ones a row goes to is its own matter: a block has one row, and reads the weights of its experts.

constexpr u32 MAX_EXPERTS = 512;

// How a row chooses. As `Choice` in maker/mlp.rs.
struct Choice {
  const float* wanted;  // [experts]: added to the scores for the choice alone; or none
  u32 experts, top_k;   // at most MAX_EXPERTS; at most 32
  u32 score;            // 0: softmax of all logits, 1: of those that are chosen, 2: the sigmoid of each
  u32 normalise;        // weights are divided by their sum
  float scaling;        // weights are multiplied by this
};

// What rows have chosen, the best first. As `Chosen` in maker/mlp.rs.
struct Chosen {
  u32* experts;    // [rows, top_k]
  float* weights;  // the same
  float* shared;   // [rows]: what the expert counts that every row has
  u32 top_k;
};

// 8 inputs as they were before `place_of`.
template <typename T, int ORDER>
__device__ __forceinline__ void in_order(float (&x)[8], const uint4& bits) {
  const u32 pairs[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (u32 i = 0; i < 8; i++) {
    const u32 at = place_of(i, ORDER);
    x[i] = T::load((u16)(pairs[at / 2] >> (16 * (at & 1))));
  }
}

// Weights of one output, as a warp has them: what is one round of loads, so that all are on their way before the inputs are there.
template <typename T, int BITS, int ORDER>
struct Output {
  static constexpr u32 LOADS = 8, EACH = 128 / BITS;  // of a lane; inputs of a load
  uint4 w[LOADS];
  u16 scales[LOADS], biases[LOADS];

  __device__ __forceinline__ void load(const Of& of, const Weight& weight, u32 group, u32 out, u32 first) {
    const uint4* from = (const uint4*)((const char*)weight.w + (u64)out * of.inputs * BITS / 8);
    const u64 groups = (u64)out * (of.inputs / group);
#pragma unroll
    for (u32 i = 0; i < LOADS; i++) {
      const u32 at = first + i * 32 + (threadIdx.x & 31);
      if (at >= of.inputs / EACH) continue;
      w[i] = __ldcs(from + at);
      if (BITS < 16) {
        scales[i] = ((const u16*)weight.scales)[groups + at * EACH / group];
        biases[i] = weight.biases[groups + at * EACH / group];
      }
    }
  }

  // By a row's inputs, a lane's part.
  __device__ __forceinline__ float multiply(const Of& of, u32 row, u32 first) const {
    const uint4* x = (const uint4*)(of.x + (u64)row * of.inputs);
    float sum = 0.f;
#pragma unroll
    for (u32 i = 0; i < LOADS; i++) {
      const u32 at = first + i * 32 + (threadIdx.x & 31);
      if (at >= of.inputs / EACH) continue;
      const u32 words[4] = {w[i].x, w[i].y, w[i].z, w[i].w};
      float own = 0.f, all = 0.f;
#pragma unroll
      for (u32 begin = 0; begin < EACH; begin += 8) {
        float inputs[8];
        in_order<T, ORDER>(inputs, x[(at * EACH + begin) / 8]);
#pragma unroll
        for (u32 j = 0; j < 8; j++) {
          const u32 bit = (begin + j) * BITS, word = words[bit / 32] >> (bit % 32);
          own += inputs[j] * (BITS == 16 ? T::load((u16)word) : (float)(word & ((1u << BITS) - 1)));
          all += inputs[j];
        }
      }
      sum += BITS < 16 ? T::load(scales[i]) * own + T::load(biases[i]) * all : own;
    }
    return sum;
  }
};

__device__ __forceinline__ float most_over(float x) {
  for (int apart = 16; apart > 0; apart /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, apart));
  return x;
}

__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

// The choice of one row: logits [experts], and behind them that of the shared expert's gate where there is one. For a warp.
__device__ __forceinline__ void choose(const Choice& how, const float* logits, bool has_gate, u32 row, const Chosen& to) {
  constexpr u32 EACH = MAX_EXPERTS / 32;
  __shared__ float scores[MAX_EXPERTS];
  const u32 lane = threadIdx.x & 31;
  float most = MINUS_INFINITY, sum = 0.f;
  for (u32 e = lane; e < how.experts; e += 32) {
    scores[e] = __ldcg(logits + e);
    most = fmaxf(most, scores[e]);
  }
  if (how.score == 0) {
    most = most_over(most);
    for (u32 e = lane; e < how.experts; e += 32) sum += scores[e] = expf(scores[e] - most);
    sum = sum_over(sum, 32);
  }
  // Of this lane's experts, in registers; 0: chosen, or none.
  u32 ranks[EACH];
#pragma unroll
  for (u32 i = 0; i < EACH; i++) {
    const u32 e = lane + 32 * i;
    ranks[i] = 0;
    if (e >= how.experts) continue;
    if (how.score == 0) scores[e] /= sum;
    if (how.score == 2) scores[e] = sigmoid(scores[e]);
    ranks[i] = rank_of(how.wanted ? scores[e] + how.wanted[e] : scores[e]);
  }
  __syncwarp();
  u32 own = 0;
  for (u32 k = 0; k < how.top_k; k++) {
    u32 best = 0, e = ~0u;
#pragma unroll
    for (u32 i = 0; i < EACH; i++) best = max(best, ranks[i]);
    best = __reduce_max_sync(ALL_LANES, best);
    // Of equals the one with the lower number.
#pragma unroll
    for (u32 i = EACH; i-- > 0;)
      if (ranks[i] == best) e = lane + 32 * i;
    e = __reduce_min_sync(ALL_LANES, e);
    if (lane == k) own = e;
#pragma unroll
    for (u32 i = 0; i < EACH; i++)
      if (lane + 32 * i == e) ranks[i] = 0;
  }
  const bool is_there = lane < how.top_k;
  float weight = is_there ? scores[own] : 0.f;
  if (how.score == 1) {
    most = most_over(is_there ? weight : MINUS_INFINITY);
    weight = is_there ? expf(weight - most) : 0.f;
    weight /= sum_over(weight, 32);
  }
  if (how.normalise) weight /= sum_over(weight, 32) + 1e-20f;
  if (is_there) {
    to.experts[row * how.top_k + lane] = own;
    to.weights[row * how.top_k + lane] = weight * how.scaling;
  }
  if (lane == 0) to.shared[row] = has_gate ? sigmoid(__ldcg(logits + how.experts)) : 1.f;
}

// x by the router [experts, inputs], and by the shared expert's gate [1, inputs] (`out` 0: none) → logits f32 [rows, experts + 1]; the block
// of a row that is done last chooses. A warp has an expert; blockIdx is (experts, row); counts [rows]: 0.
template <typename T, int BITS, int ORDER>
__global__ void __launch_bounds__(32 * WARPS) route(
    Of of, u32 group, Weight router, Weight gate, Choice how, float* logits, u32* counts, Chosen to) {
  typedef Output<T, BITS, ORDER> Own;
  const u32 row = blockIdx.y, lane = threadIdx.x & 31, warp = threadIdx.x >> 5, all = how.experts + gate.out;
  const u32 e = blockIdx.x * WARPS + warp, out = e < how.experts ? e : 0;
  const Weight weight = either(e < how.experts, router, gate);
  Own own;
  if (e < all) own.load(of, weight, group, out, 0);
  let_the_next_begin();
  wait_for_the_one_before();
  logits += row * (how.experts + 1);
  if (e < all) {
    const float by = of.squares ? norm_of_row(of, row) : 1.f;
    float logit = own.multiply(of, row, 0);
    for (u32 first = 32 * Own::LOADS; first < of.inputs / Own::EACH; first += 32 * Own::LOADS) {
      own.load(of, weight, group, out, first);
      logit += own.multiply(of, row, first);
    }
    logit = by * sum_over(logit, 32);
    if (weight.bias) logit += T::load(weight.bias[out]);
    if (lane == 0) logits[e] = logit;
  }
  if (!is_last_of(counts + row, gridDim.x) || warp > 0) return;
  choose(how, logits, gate.out > 0, row, to);
}

// One expert's of weights [experts, out, inputs].
template <int BITS, int GROUP>
__device__ __forceinline__ Weight of_expert(Weight weight, u32 inputs, u32 expert) {
  const u64 rows = (u64)expert * weight.out;
  weight.w = (const char*)weight.w + rows * inputs * width_of(BITS) / 8;
  weight.scales = (const typename ScaleOf<BITS>::Type*)weight.scales + rows * (inputs / GROUP);
  weight.biases += rows * (inputs / GROUP);
  if (weight.bias) weight.bias += rows;
  return weight;
}

// f(gate) * up * what the expert counts, of each expert of each row → y [rows * top_k, out]. blockIdx is (tiles, expert, row).
template <typename T, int BITS, int GROUP, int INPUTS, int AHEAD, int ACTIVATION>
__global__ void BOUNDS gated_experts(Of of, Weight gate, Weight up, Chosen by, Inner to) {
  // Before the next may begin: that reads what was chosen at once.
  wait_for_the_one_before();
  const u32 row = blockIdx.z, pair = row * by.top_k + blockIdx.y, expert = by.experts[pair], tiles = of.inputs / TILE;
  of.x += row * of.inputs;
  of.sums += row * tiles;
  if (of.squares) of.squares += row * tiles;
  of.rows = 1;
  to.y += (u64)pair * gate.out;
  to.sums += pair * (gate.out / TILE);
  to.by = by.weights + pair;
  gated_tile<T, BITS, GROUP, INPUTS, AHEAD, ACTIVATION>(
      of, of_expert<BITS, GROUP>(gate, of.inputs, expert), of_expert<BITS, GROUP>(up, of.inputs, expert), to);
}

// h += multiplier * what the experts of a row give: x [rows * top_k, inputs] has been multiplied by what each counts. A block has a tile of
// one row, and `split` warps of it an expert; blockIdx is (tile, row).
template <typename T, int BITS, int GROUP, int INPUTS, int AHEAD>
__global__ void BOUNDS combine(Of of, Weight down, Chosen by, Residual to) {
  typedef Chunk<BITS, GROUP, INPUTS> C;
  __shared__ __align__(16) float sums[C::GROUPS == 0 ? 1 : MAX_GROUPS * MAX_ROWS];
  const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, tile = blockIdx.x, row = blockIdx.y;
  const u32 chunks = of.inputs / INPUTS, step = of.split * AHEAD, first = warp % of.split * AHEAD, at_once = WARPS / of.split;
  // All experts are one product of so many more inputs.
  Of all = of;
  all.rows = 1;
  all.inputs *= by.top_k;
  all.x += row * all.inputs;
  all.sums += row * (all.inputs / TILE);
  C loaded[AHEAD];
  auto source_of = [&](u32 k) {
    const Weight own = of_expert<BITS, GROUP>(down, of.inputs, by.experts[row * by.top_k + k]);
    return Source<BITS, GROUP, INPUTS>(own, tile, of.inputs, first, lane);
  };
  u32 k = warp / of.split;
  const bool works = k < by.top_k && first < chunks;
  Source<BITS, GROUP, INPUTS> source = source_of(works ? k : 0);
  let_the_next_begin();
  if (works) load_ahead(loaded, source, first);
  wait_for_the_one_before();
  if constexpr (C::GROUPS > 0) sum_groups<GROUP>(all, sums);
  float y[4] = {0.f, 0.f, 0.f, 0.f};
  while (works) {
    multiply_chunks<T, BITS, GROUP, INPUTS, AHEAD>(
        y, loaded, source, all.x + k * of.inputs, sums + k * (of.inputs / GROUP) * MAX_ROWS, first, step, chunks);
    k += at_once;
    if (k >= by.top_k) break;
    source = source_of(k);
    load_ahead(loaded, source, first);
  }
#pragma unroll
  for (int i = 0; i < 4; i++) found[warp][i][lane] = y[i];
  __syncthreads();
  if (warp > 0) return;
  const u16* bias = down.bias;
  down.bias = nullptr;
  all.split = WARPS;
  collect<T>(y, all, down, tile, 0);
  if (bias)
    each_of(tile, 1, down.out, [&](u32, u32 at, int i) {
      for (u32 e = 0; e < by.top_k; e++) {
        const u32 pair = row * by.top_k + e;
        y[i] += by.weights[pair] * T::load(bias[(u64)by.experts[pair] * down.out + at]);
      }
    });
  to.h += row * down.out;
  to.normed += row * down.out;
  to.sums += row * (down.out / TILE);
  to.squares += row * (down.out / TILE);
  add_tile<T>(y, tile, 1, down.out, to);
}
