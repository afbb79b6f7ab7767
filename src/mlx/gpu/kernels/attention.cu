// Attention of single queries: the keys of a row are shared among several blocks, each of which has a softmax of its part; the block
// that is done last puts them together. How keys are shared depends on their number alone, so a row's numbers do not depend on
// other rows.

// As `Attention` in maker/attention.rs.
struct AttentionOf {
  u32 parts;           // blocks for the keys of one row at most
  float scale;         // of scores
  float softcap;       // cap * tanh(scores / cap); 0: none
  const u16* sinks;    // [heads]: the score of no token; or none
};

constexpr float LOG2_E = 1.4426950408889634f;
// To put parts together costs as much as to look at so many keys more.
constexpr u32 ALONE = 160;
// Keys of a part at least.
constexpr u32 FEWEST = 64;

// Of a block: as many as its memory has room for what each warp finds.
template <int DIM>
__host__ __device__ constexpr u32 threads_of() { return DIM > 128 ? 128 : 256; }

// qkv [rows, (heads + 2 kv_heads) * DIM] f32 → y [rows, heads * DIM], in the next weight's order, with sums by tiles
// [rows, heads * DIM / TILE]; keys and values go to the rows' places. A block has a part of the keys of one row and of the GROUP heads that
// share them: blockIdx is (part, kv head and group of its heads, row). found [rows, heads, parts, DIM + 2]: the largest score, the sum of
// weights and the weighted values; counts [rows, kv_heads * groups]: 0.
//
// A block makes the heads that it needs itself: the queries, and of keys and values those of this step's rows that lie in its part. Several
// blocks then write the same numbers to the same places.
template <typename T, int DIM, int GROUP>
__global__ void __launch_bounds__(threads_of<DIM>()) attention(
    HeadsOf heads, AttentionOf of, const Place* places, const float* qkv, u16* y, u32 order, float* sums, float* found, u32* counts) {
  constexpr u32 LANES = DIM > 128 ? 32 : DIM > 64 ? 16 : 8;  // of a key, 8 numbers each
  constexpr u32 STREAMS = threads_of<DIM>() / LANES, WARPS_OF = threads_of<DIM>() / 32;
  constexpr u32 AHEAD = 4;
  __shared__ float most[WARPS_OF][GROUP], weights[WARPS_OF][GROUP];
  __shared__ float values[WARPS_OF][GROUP][DIM];
  __shared__ float queries[GROUP][DIM];
  __shared__ float2 turns[DIM / 2];
  const u32 row = blockIdx.z, rows = gridDim.z, per = heads.heads / heads.kv_heads, groups = (per + GROUP - 1) / GROUP;
  const u32 kv_head = blockIdx.y / groups;
  const u32 head = kv_head * per + blockIdx.y % groups * GROUP;
  const u32 own_heads = min((u32)GROUP, kv_head * per + per - head);
  // Places and the keys of steps before are nothing that a kernel of this step writes.
  const Place place = places[row];
  const u32 length = place.seen <= ALONE ? place.seen : max((place.seen + of.parts - 1) / of.parts, FEWEST);
  const u32 parts = (place.seen + length - 1) / length;
  if (blockIdx.x >= parts) return;
  const u32 begin = blockIdx.x * length, end = min(begin + length, place.seen);
  const u32 stream = threadIdx.x / LANES, lane = threadIdx.x % LANES, warp = threadIdx.x / 32;
  const bool has_numbers = lane * 8 < DIM;
  // Rows of this step whose keys lie in this part, as bits.
  const u32 other = threadIdx.x % 32;
  const bool is_fresh = other < rows && places[other].keys == place.keys && places[other].at >= begin && places[other].at < end;
  const u32 fresh = __ballot_sync(ALL_LANES, is_fresh);

  const u16* keys = place.keys + kv_head * place.head_stride + lane * 8;
  const u16* vals = place.values + kv_head * place.head_stride + lane * 8;
  uint4 k[AHEAD], v[AHEAD];
  auto load = [&](u32 first) {
#pragma unroll
    for (u32 a = 0; a < AHEAD; a++) {
      const u32 key = first + a * STREAMS + stream;
      const bool read = key < end && has_numbers;
      k[a] = read ? *(const uint4*)(keys + (u64)key * DIM) : make_uint4(0, 0, 0, 0);
      v[a] = read ? *(const uint4*)(vals + (u64)key * DIM) : make_uint4(0, 0, 0, 0);
    }
  };
  if (!fresh) load(begin);
  for (u32 i = threadIdx.x; i < heads.turned / 2; i += blockDim.x) turns[i] = turn_of(heads, place.position, i);
  __syncthreads();
  let_the_next_begin();
  wait_for_the_one_before();

  const u32 all = heads.heads + 2 * heads.kv_heads;
  for (u32 at = warp; at < own_heads + 2 * rows; at += WARPS_OF) {
    if (at < own_heads) {
      const float* from = qkv + ((u64)row * all + head + at) * DIM;
      make_head<T, DIM>(heads, from, heads.q_norm, true, queries[at], [&](u32 i) { return turns[i]; });
      continue;
    }
    const u32 of_row = (at - own_heads) / 2;
    const bool is_value = (at - own_heads) % 2 == 1;
    if (!(fresh >> of_row & 1)) continue;
    const Place& to = places[of_row];
    const float* from = qkv + ((u64)of_row * all + heads.heads + (is_value ? heads.kv_heads : 0) + kv_head) * DIM;
    float* x = values[warp][0];
    make_head<T, DIM>(heads, from, is_value ? nullptr : heads.k_norm, !is_value, x, [&](u32 i) {
      return of_row == row ? turns[i] : turn_of(heads, to.position, i);
    });
    u16* place_of_row = (is_value ? to.values : to.keys) + kv_head * to.head_stride + (u64)to.at * DIM;
    for (u32 i = other; i < DIM; i += 32) place_of_row[i] = T::round(x[i]);
    __syncwarp();
  }
  __syncthreads();
  if (fresh) load(begin);

  float asked[GROUP][8];
#pragma unroll
  for (int h = 0; h < GROUP; h++)
#pragma unroll
    for (int i = 0; i < 8; i++) asked[h][i] = has_numbers && h < own_heads ? queries[h][lane * 8 + i] * of.scale : 0.f;
  float own_most[GROUP], own_weights[GROUP], own_values[GROUP][8];
#pragma unroll
  for (int h = 0; h < GROUP; h++) {
    own_most[h] = -1e30f;
    own_weights[h] = 0.f;
#pragma unroll
    for (int i = 0; i < 8; i++) own_values[h][i] = 0.f;
  }
  // All lanes of a warp go round together.
  for (u32 first = begin; first < end;) {
    float scores[AHEAD][GROUP];
#pragma unroll
    for (u32 a = 0; a < AHEAD; a++) {
      const u32 bits[4] = {k[a].x, k[a].y, k[a].z, k[a].w};
      float numbers[8];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float2 pair = load_pair<T>(bits[i]);
        numbers[2 * i] = pair.x;
        numbers[2 * i + 1] = pair.y;
      }
      const bool is_key = first + a * STREAMS + stream < end;
#pragma unroll
      for (int h = 0; h < GROUP; h++) {
        float score = 0.f;
#pragma unroll
        for (int i = 0; i < 8; i++) score += asked[h][i] * numbers[i];
        score = sum_over(score, LANES);
        if (of.softcap > 0.f) score = of.softcap * tanhf(score / of.softcap);
        scores[a][h] = is_key ? score * LOG2_E : MINUS_INFINITY;
      }
    }
#pragma unroll
    for (int h = 0; h < GROUP; h++) {
      float now = own_most[h];
#pragma unroll
      for (u32 a = 0; a < AHEAD; a++) now = fmaxf(now, scores[a][h]);
      const float before = exp2f(own_most[h] - now);
      own_most[h] = now;
      own_weights[h] *= before;
#pragma unroll
      for (int i = 0; i < 8; i++) own_values[h][i] *= before;
#pragma unroll
      for (u32 a = 0; a < AHEAD; a++) {
        const float weight = exp2f(scores[a][h] - now);
        own_weights[h] += weight;
        const u32 bits[4] = {v[a].x, v[a].y, v[a].z, v[a].w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float2 pair = load_pair<T>(bits[i]);
          own_values[h][2 * i] += weight * pair.x;
          own_values[h][2 * i + 1] += weight * pair.y;
        }
      }
    }
    first += STREAMS * AHEAD;
    if (first < end) load(first);
  }
#pragma unroll
  for (int h = 0; h < GROUP; h++) {
    // The streams of a warp.
#pragma unroll
    for (u32 apart = LANES; apart < 32; apart *= 2) {
      const float others = __shfl_xor_sync(ALL_LANES, own_most[h], apart), now = fmaxf(own_most[h], others);
      const float by = exp2f(own_most[h] - now), other_by = exp2f(others - now);
      own_most[h] = now;
      own_weights[h] = by * own_weights[h] + other_by * __shfl_xor_sync(ALL_LANES, own_weights[h], apart);
#pragma unroll
      for (int i = 0; i < 8; i++)
        own_values[h][i] = by * own_values[h][i] + other_by * __shfl_xor_sync(ALL_LANES, own_values[h][i], apart);
    }
    if (threadIdx.x % 32 == 0) {
      most[warp][h] = own_most[h];
      weights[warp][h] = own_weights[h];
    }
    if (has_numbers && threadIdx.x % 32 < LANES)
#pragma unroll
      for (int i = 0; i < 8; i++) values[warp][h][lane * 8 + i] = own_values[h][i];
  }
  __syncthreads();
  // For whole warps: numbers of the heads, of which some are behind the last.
  auto store = [&](u32 at, bool is_there, float x) {
    const u64 start = (u64)row * heads.heads * DIM;
    const u32 to = head * DIM + at;
    const u16 own = T::round(x);
    const float sum = sum_over(is_there ? T::load(own) : 0.f, TILE);
    if (!is_there) return;
    y[start + place_of(to, order)] = own;
    if (at % TILE == 0) sums[(start + to) / TILE] = sum;
  };
  const u32 numbers = own_heads * DIM;
  // The warps of this block. Of a head [most, weights, values] behind each other.
  for (u32 at = threadIdx.x; at < (numbers + 31) / 32 * 32; at += blockDim.x) {
    const bool is_there = at < numbers;
    const u32 h = is_there ? at / DIM : 0, i = at % DIM;
    float now = -1e30f;
    for (u32 w = 0; w < WARPS_OF; w++) now = fmaxf(now, most[w][h]);
    float sum = 0.f, x = 0.f;
    for (u32 w = 0; w < WARPS_OF; w++) {
      const float by = exp2f(most[w][h] - now);
      sum += by * weights[w][h];
      x += by * values[w][h][i];
    }
    if (parts == 1) {
      if (of.sinks) sum += exp2f(T::load(of.sinks[head + h]) * LOG2_E - now);
      store(at, is_there, x / sum);
      continue;
    }
    if (!is_there) continue;
    float* to = found + (((u64)row * heads.heads + head + h) * of.parts + blockIdx.x) * (DIM + 2);
    to[2 + i] = x;
    if (i == 0) {
      to[0] = now;
      to[1] = sum;
    }
  }
  if (parts == 1) return;
  if (!is_last_of(counts + row * gridDim.y + blockIdx.y, parts)) return;
  for (u32 at = threadIdx.x; at < (numbers + 31) / 32 * 32; at += blockDim.x) {
    const bool is_there = at < numbers;
    const u32 h = is_there ? at / DIM : 0, i = at % DIM;
    const float* from = found + ((u64)row * heads.heads + head + h) * of.parts * (DIM + 2);
    float now = -1e30f;
    for (u32 p = 0; p < parts; p++) now = fmaxf(now, __ldcg(from + p * (DIM + 2)));
    float sum = 0.f, x = 0.f;
    for (u32 p = 0; p < parts; p++) {
      const float* part = from + p * (DIM + 2);
      const float by = exp2f(__ldcg(part) - now);
      sum += by * __ldcg(part + 1);
      x += by * __ldcg(part + 2 + i);
    }
    if (of.sinks) sum += exp2f(T::load(of.sinks[head + h]) * LOG2_E - now);
    store(at, is_there, x / sum);
  }
}
