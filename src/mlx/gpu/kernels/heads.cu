// Queries, keys and values of a step's rows: norms of heads, turns by position, keys and values into the cache. A warp for each
// head of each row.

// As `Heads` in maker/attention.rs.
struct HeadsOf {
  u32 heads, kv_heads, dim;
  u32 turned;                // numbers from a head's front that are turned, in pairs
  u32 traditional;           // neighbours are pairs, else the halves are
  float scale, factor;       // of positions, and of what is turned
  float eps;                 // of the norms
  const double* frequencies; // [turned / 2], radians for each position
  const u16* q_norm;         // [dim], or none
  const u16* k_norm;         // the same
};

constexpr u32 MAX_HEAD_DIM = 256;

// qkv [rows, (heads + 2 kv_heads) * dim] f32 → q [rows, heads, dim] f32; keys and values go to the rows' places.
template <typename T>
__global__ void __launch_bounds__(128) heads(HeadsOf of, const Place* places, const float* qkv, float* q) {
  __shared__ float values[4][MAX_HEAD_DIM];
  let_the_next_begin();
  wait_for_the_one_before();
  const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const u32 head = blockIdx.x * 4 + warp, all = of.heads + 2 * of.kv_heads, row = blockIdx.y;
  if (head >= all) return;
  const Place place = places[row];
  const float* from = qkv + ((u64)row * all + head) * of.dim;
  float* x = values[warp];
  float sum = 0.f;
  for (u32 i = lane; i < of.dim; i += 32) {
    x[i] = from[i];
    sum += x[i] * x[i];
  }
  const bool is_query = head < of.heads, is_value = head >= of.heads + of.kv_heads;
  const u16* norm = is_query ? of.q_norm : is_value ? nullptr : of.k_norm;
  if (norm) {
    const float by = rsqrtf(sum_over(sum, 32) / of.dim + of.eps);
    for (u32 i = lane; i < of.dim; i += 32) x[i] *= by * T::load(norm[i]);
  }
  __syncwarp();
  if (!is_value) {
    const u32 pairs = of.turned / 2;
    for (u32 i = lane; i < pairs; i += 32) {
      // Angles of late positions are many turns: these go off in f64.
      double angle = (double)place.position * of.scale * of.frequencies[i];
      angle -= 6.283185307179586 * rint(angle * 0.15915494309189535);
      float s, c;
      sincosf((float)angle, &s, &c);
      s *= of.factor;
      c *= of.factor;
      const u32 first = of.traditional ? 2 * i : i, second = of.traditional ? 2 * i + 1 : i + pairs;
      const float a = x[first], b = x[second];
      x[first] = a * c - b * s;
      x[second] = a * s + b * c;
    }
    __syncwarp();
  }
  if (is_query) {
    float* to = q + ((u64)row * of.heads + head) * of.dim;
    for (u32 i = lane; i < of.dim; i += 32) to[i] = x[i];
    return;
  }
  const u32 own = is_value ? head - of.heads - of.kv_heads : head - of.heads;
  u16* to = (is_value ? place.values : place.keys) + own * place.head_stride + (u64)place.at * of.dim;
  for (u32 i = lane; i < of.dim; i += 32) to[i] = T::round(x[i]);
}
