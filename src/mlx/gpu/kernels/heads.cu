// Heads of a step's rows, queries, keys and values, as a product gave them: norms, and turns by position.

// As `Heads` in maker/attention.rs.
struct HeadsOf {
  u32 heads, kv_heads;
  u32 turned;                // numbers from a head's front that are turned, in pairs
  u32 traditional;           // neighbours are pairs, else the halves are
  float scale, factor;       // of positions, and of what is turned
  float eps;                 // of the norms
  const double* frequencies; // [turned / 2], radians for each position
  const u16* q_norm;         // [dim], or none
  const u16* k_norm;         // the same
};

// Cosine and sine of what a pair is turned by.
__device__ __forceinline__ float2 turn_of(const HeadsOf& of, u32 position, u32 pair) {
  // Angles of late positions are many turns: these go off in f64.
  double angle = (double)position * of.scale * of.frequencies[pair];
  angle -= 6.283185307179586 * rint(angle * 0.15915494309189535);
  float s, c;
  sincosf((float)angle, &s, &c);
  return make_float2(c * of.factor, s * of.factor);
}

// x [DIM] in a block's memory: a head as attention takes it, its pairs turned by `turn(pair)` where it is no value. For a warp.
template <typename T, int DIM, typename F>
__device__ __forceinline__ void make_head(const HeadsOf& of, const float* from, const u16* norm, bool is_turned, float* x, F turn) {
  constexpr u32 EACH = (DIM + 31) / 32;
  const u32 lane = threadIdx.x & 31;
  float own[EACH], weights[EACH], sum = 0.f;
#pragma unroll
  for (u32 i = 0; i < EACH; i++) {
    const u32 at = lane + 32 * i;
    own[i] = at < DIM ? from[at] : 0.f;
    weights[i] = norm && at < DIM ? T::load(norm[at]) : 0.f;
    sum += own[i] * own[i];
  }
  const float by = norm ? rsqrtf(sum_over(sum, 32) / DIM + of.eps) : 0.f;
#pragma unroll
  for (u32 i = 0; i < EACH; i++)
    if (lane + 32 * i < DIM) x[lane + 32 * i] = norm ? own[i] * (by * weights[i]) : own[i];
  __syncwarp();
  if (!is_turned) return;
  const u32 pairs = of.turned / 2;
  for (u32 i = lane; i < pairs; i += 32) {
    const float2 by_this = turn(i);
    const u32 first = of.traditional ? 2 * i : i, second = of.traditional ? 2 * i + 1 : i + pairs;
    const float a = x[first], b = x[second];
    x[first] = a * by_this.x - b * by_this.y;
    x[second] = a * by_this.y + b * by_this.x;
  }
  __syncwarp();
}
