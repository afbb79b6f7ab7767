// The next token from one row of logits, by the arithmetic of `sampling/` and with the random numbers of MLX's: a seed draws the same
// tokens as MLX's operations do. Tokens are kept by thresholds, which are found digit by digit: a histogram of the log-probabilities'
// bits, and of what lies in the bin where the threshold is another one of the bits below.
//
// Each kernel has a block for every EACH_PART tokens; the block that is done last puts together what all have found.

constexpr u32 EACH_PART = 2048;
constexpr u32 DRAW_THREADS = 512;
constexpr u32 BINS = 2048;

// f32 in the place of Bf16 and F16.
struct F32 {
  static __device__ __forceinline__ float load(float x) { return x; }
  static __device__ __forceinline__ float round(float x) { return x; }
};

// How a row is read: numbers of 32 bits, or of 16, whose log-probabilities as f32 have nothing but zeros in the lower digits.
template <typename T>
struct RowOf {
  typedef u16 Number;
  static constexpr u32 DIGITS = 2, UNUSED = 10;
};
template <>
struct RowOf<F32> {
  typedef float Number;
  static constexpr u32 DIGITS = 3, UNUSED = 0;
};

// As `Draw` in gpu/draw.rs.
struct DrawOf {
  const void* logits;  // [n]
  const void* own;     // [n] of the same type or f32: the model's, before what was added to it or banned; or none
  u32 n;
  u32 own_is_f32;
  u32 key[2];          // of the random numbers
  float sharpness;     // 1 / temperature; 0: the largest
  float top_p;         // 0: none
  float min_p;         // ln p; 1: none
  u32 top_k;           // 0: none
  u32* token;          // [1]
  float* levels;       // [2]: of the logits and of the model's own the largest, or NaN where NaN or infinity is among them
};

// What one kernel leaves to the next.
struct DrawState {
  u32 count;       // blocks that are done: 0 between kernels
  float total;     // what log-probabilities are less than logits
  float largest;   // log-probability
  u32 by_mass;     // of `top_p` the threshold's digits so far
  u32 by_count;    // of `top_k`
  u32 equal;       // of the tokens at that threshold so many are kept
  u32 cuts;        // whether there are more
  u64 mass, enough;  // of what lies above the digits so far, and of all that is kept
  u64 above;       // tokens above the digits of `by_count`
};

// What a block finds of its part. [parts] of each in DrawRoom.
struct DrawRoom {
  DrawState* state;
  u64* masses;     // [BINS]: 0 between kernels
  u64* counts;     // [BINS]: the same
  Largest* best;   // [parts]
  Largest* own;    // [parts]
  float* sums;     // [parts]: of e^(logit - the largest of the part)
};

// NaN where +infinity is.
__device__ __forceinline__ float finite(float x) { return x == -MINUS_INFINITY ? NOT_A_NUMBER : x; }

// Of what all warps of a block have found one, in all threads and in the same order each time: by `join`.
template <typename N, typename F>
__device__ __forceinline__ N join_warps(N own, F join) {
  __shared__ N warps[DRAW_THREADS / 32];
  __syncthreads();
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = own;
  __syncthreads();
  own = warps[0];
  for (u32 i = 1; i < DRAW_THREADS / 32; i++) own = join(own, warps[i]);
  return own;
}

__device__ __forceinline__ Largest largest_of_block(Largest own) { return join_warps(largest_over(own), larger); }

template <typename N>
__device__ __forceinline__ N sum_of_block(N x) {
  return join_warps(sum_over(x, 32), [](N a, N b) { return a + b; });
}

// What the threads before this one have.
template <typename N>
__device__ __forceinline__ N sum_before(N own) {
  __shared__ N warps[DRAW_THREADS / 32];
  N sum = own;
  for (u32 apart = 1; apart < 32; apart *= 2) {
    const N other = __shfl_up_sync(ALL_LANES, sum, apart);
    if (threadIdx.x % 32 >= apart) sum += other;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 31) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  sum -= own;
  for (u32 i = 0; i < threadIdx.x / 32; i++) sum += warps[i];
  return sum;
}

__device__ __forceinline__ u32 part_begin() { return blockIdx.x * EACH_PART; }
__device__ __forceinline__ u32 part_end(u32 n) { return min(part_begin() + EACH_PART, n); }

// The largest of a part of a row.
template <typename T>
__device__ __forceinline__ Largest largest_of_part(const void* row, u32 n) {
  Largest own = {MINUS_INFINITY, ~0u};
  for (u32 i = part_begin() + threadIdx.x; i < part_end(n); i += DRAW_THREADS)
    own = larger(own, {finite(T::load(((const typename RowOf<T>::Number*)row)[i])), i});
  return largest_of_block(own);
}

// The largest of all parts.
__device__ __forceinline__ Largest largest_of_parts(const Largest* parts) {
  Largest own = {MINUS_INFINITY, ~0u};
  for (u32 i = threadIdx.x; i < gridDim.x; i += DRAW_THREADS) own = larger(own, {__ldcg(&parts[i].value), __ldcg(&parts[i].at)});
  return largest_of_block(own);
}

// The levels, the largest token, and what makes log-probabilities of logits.
template <typename T>
__global__ void __launch_bounds__(DRAW_THREADS) measure(DrawOf of, DrawRoom room) {
  const typename RowOf<T>::Number* logits = (const typename RowOf<T>::Number*)of.logits;
  const Largest best = largest_of_part<T>(of.logits, of.n);
  float sum = 0.f;
  if (of.sharpness > 0.f && best.value > MINUS_INFINITY)
    for (u32 i = part_begin() + threadIdx.x; i < part_end(of.n); i += DRAW_THREADS) sum += expf(T::load(logits[i]) - best.value);
  sum = sum_of_block(sum);
  Largest own = best;
  if (of.own) own = of.own_is_f32 ? largest_of_part<F32>(of.own, of.n) : largest_of_part<T>(of.own, of.n);
  if (threadIdx.x == 0) {
    room.best[blockIdx.x] = best;
    room.own[blockIdx.x] = own;
    room.sums[blockIdx.x] = sum;
  }
  if (!is_last_of(&room.state->count, gridDim.x)) return;
  const Largest all = largest_of_parts(room.best), all_own = largest_of_parts(room.own);
  // With none that is finite there is nothing to shift by.
  const float shift = isfinite(all.value) ? all.value : 0.f;
  sum = 0.f;
  for (u32 i = threadIdx.x; i < gridDim.x; i += DRAW_THREADS) {
    const float level = __ldcg(&room.best[i].value);
    if (level > MINUS_INFINITY) sum += __ldcg(room.sums + i) * expf(level - shift);
  }
  sum = sum_of_block(sum);
  if (threadIdx.x > 0) return;
  DrawState& state = *room.state;
  state.total = T::load(T::round(shift + logf(sum)));
  state.largest = T::load(T::round(all.value - state.total));
  state.by_mass = state.by_count = state.equal = state.cuts = 0;
  state.mass = state.enough = state.above = 0;
  of.levels[0] = all.value;
  of.levels[1] = all_own.value;
  // Of numbers that are all -infinity the first.
  *of.token = all.at == ~0u ? 0 : all.at;
}

template <typename T>
__device__ __forceinline__ float logprob_of(const DrawOf& of, float total, u32 i) {
  return T::load(T::round(T::load(((const typename RowOf<T>::Number*)of.logits)[i]) - total));
}

// Where a digit begins among the 32 bits, the highest one first, and which values it has.
__device__ __forceinline__ constexpr u32 shift_of(u32 digit) { return digit == 0 ? 21 : digit == 1 ? 10 : 0; }
__device__ __forceinline__ constexpr u32 mask_of(u32 digit) { return digit == 2 ? 1023 : 2047; }

// The bin, from the highest on, with which the sum over bins reaches `wanted`, and what lies above it; bins are 0 behind it. For all
// threads of a block.
__device__ __forceinline__ u32 bin_of(u64* bins, u64 above, u64 wanted, u64& is_above, u64& inside) {
  constexpr u32 EACH = BINS / DRAW_THREADS;
  __shared__ u32 found;
  __shared__ u64 found_above, found_inside;
  u64 own[EACH], sum = 0;
  const u32 first = BINS - 1 - threadIdx.x * EACH;
  for (u32 i = 0; i < EACH; i++) {
    sum += own[i] = __ldcg(bins + first - i);
    bins[first - i] = 0;
  }
  // Where nothing reaches it, for its sum was rounded, all is kept.
  if (threadIdx.x == DRAW_THREADS - 1) found = 0, found_above = above, found_inside = 0;
  u64 before = above + sum_before(sum);
  __syncthreads();
  if (before < wanted && before + sum >= wanted) {
    u32 i = 0;
    while (before + own[i] < wanted) before += own[i++];
    found = first - i;
    found_above = before;
    found_inside = own[i];
  }
  __syncthreads();
  is_above = found_above;
  inside = found_inside;
  return found;
}

// The next digit of the thresholds.
template <typename T, int DIGIT>
__global__ void __launch_bounds__(DRAW_THREADS) narrow(DrawOf of, DrawRoom room) {
  // Of a token's part of all relative to the largest one's, times SCALE, what is whole, and what is not, times SCALE.
  constexpr float SCALE = 524288.f;
  __shared__ u32 whole[BINS], rest[BINS], counts[BINS];
  DrawState& state = *room.state;
  const float total = state.total, largest = state.largest;
  const u32 by_mass = state.by_mass, by_count = state.by_count;
  for (u32 i = threadIdx.x; i < BINS; i += DRAW_THREADS) whole[i] = rest[i] = counts[i] = 0;
  __syncthreads();
  for (u32 i = part_begin() + threadIdx.x; i < part_end(of.n); i += DRAW_THREADS) {
    const float logprob = logprob_of<T>(of, total, i);
    const u32 rank = rank_of(logprob), bin = rank >> shift_of(DIGIT) & mask_of(DIGIT);
    const u32 above = DIGIT == 0 ? 0 : rank >> shift_of(DIGIT - 1);
    if (of.top_p > 0.f && above == by_mass) {
      const float mass = expf(logprob - largest) * SCALE, own = truncf(mass);
      const u32 behind = (u32)((mass - own) * SCALE);
      if (own > 0.f) atomicAdd(whole + bin, (u32)own);
      if (behind > 0) atomicAdd(rest + bin, behind);
    }
    if (of.top_k > 0 && above == by_count) atomicAdd(counts + bin, 1);
  }
  __syncthreads();
  for (u32 i = threadIdx.x; i < BINS; i += DRAW_THREADS) {
    const u64 mass = (u64)whole[i] * (u32)SCALE + rest[i];
    if (mass > 0) atomicAdd(room.masses + i, mass);
    if (counts[i] > 0) atomicAdd(room.counts + i, (u64)counts[i]);
  }
  if (!is_last_of(&state.count, gridDim.x)) return;
  u64 above, inside;
  if (of.top_p > 0.f) {
    u64 enough = state.enough;
    if (DIGIT == 0) {
      u64 sum = 0;
      for (u32 i = threadIdx.x; i < BINS; i += DRAW_THREADS) sum += __ldcg(room.masses + i);
      sum = sum_of_block(sum);
      enough = max((u64)1, min(sum, (u64)ceil((double)of.top_p * (double)sum)));
    }
    const u64 mass = state.mass;
    const u32 bin = bin_of(room.masses, mass, enough, above, inside);
    __syncthreads();
    if (threadIdx.x == 0) {
      state.by_mass = by_mass * (mask_of(DIGIT) + 1) + bin;
      state.mass = above;
      state.enough = enough;
    }
  }
  if (of.top_k > 0) {
    const u64 before = state.above;
    const u32 bin = bin_of(room.counts, before, of.top_k, above, inside);
    __syncthreads();
    if (threadIdx.x == 0) {
      state.by_count = by_count * (mask_of(DIGIT) + 1) + bin;
      state.above = above;
      state.equal = of.top_k - (u32)above;
      state.cuts = inside > state.equal;
    }
  }
}

// Threefry-2x32 in 20 rounds.
__device__ __forceinline__ uint2 threefry(const u32 (&key)[2], u32 x, u32 y) {
  const u32 keys[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1bd11bdau};
  const u32 turns[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  x += keys[0];
  y += keys[1];
#pragma unroll
  for (u32 round = 0; round < 5; round++) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      const u32 turn = turns[round % 2][i];
      x += y;
      y = (y << turn | y >> (32 - turn)) ^ x;
    }
    x += keys[(round + 1) % 3];
    y += keys[(round + 2) % 3] + round + 1;
  }
  return make_uint2(x, y);
}

// -ln(-ln u) for u from [0, 1): MLX fills an array of n with two words of a pair of places.
__device__ __forceinline__ float gumbel(const u32 (&key)[2], u32 n, u32 i) {
  const u32 half = n / 2, odd = n % 2;
  u32 bits;
  if (i < half)
    bits = threefry(key, i, i + half + odd).x;
  else if (i == half && odd)
    bits = threefry(key, i, 0).x;
  else
    bits = threefry(key, i - half - odd, i).y;
  const float u = fminf((float)bits * 2.3283064365386963e-10f, 0.99999994f);
  return -logf(-logf(u));
}

// The token, from those that are left.
template <typename T>
__global__ void __launch_bounds__(DRAW_THREADS) draw(DrawOf of, DrawRoom room) {
  constexpr u32 UNUSED = RowOf<T>::UNUSED;
  const DrawState& state = *room.state;
  const float total = state.total;
  u32 least = of.top_p > 0.f ? state.by_mass : 0;
  if (of.min_p <= 0.f) {
    const float by = T::load(T::round(state.largest + T::load(T::round(of.min_p))));
    least = max(least, rank_of(by) >> UNUSED);
  }
  const bool counts = of.top_k > 0 && state.by_count >= least, cuts = counts && state.cuts;
  if (counts) least = state.by_count;
  const u32 equal = state.equal;
  // Tokens at the threshold of `top_k` are kept in order: those before this part.
  u32 seen = 0;
  if (cuts) {
    for (u32 i = threadIdx.x; i < part_begin(); i += DRAW_THREADS) seen += rank_of(logprob_of<T>(of, total, i)) >> UNUSED == least;
    seen = sum_of_block(seen);
  }
  Largest best = {MINUS_INFINITY, ~0u};
  for (u32 first = part_begin(); first < part_end(of.n); first += DRAW_THREADS) {
    const u32 i = first + threadIdx.x;
    const bool is_there = i < part_end(of.n);
    const float logprob = is_there ? logprob_of<T>(of, total, i) : MINUS_INFINITY;
    const u32 rank = rank_of(logprob) >> UNUSED;
    bool kept = is_there && rank >= least && logprob > MINUS_INFINITY;
    if (cuts) {
      const u32 is_equal = is_there && rank == least, before = sum_before(is_equal);
      kept = kept && (rank > least || seen + before < equal);
      seen += sum_of_block(is_equal);
    }
    if (kept) best = larger(best, {logprob * of.sharpness + gumbel(of.key, of.n, i), i});
  }
  best = largest_of_block(best);
  if (threadIdx.x == 0) room.best[blockIdx.x] = best;
  if (!is_last_of(&room.state->count, gridDim.x)) return;
  best = largest_of_parts(room.best);
  if (threadIdx.x == 0 && best.at != ~0u) *of.token = best.at;
}
