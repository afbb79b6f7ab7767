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

// x [DIM] in a block's memory: a head as attention takes it. `is_turned`: no value. For a warp.
template <typename T, int DIM>
__device__ __forceinline__ void make_head(const HeadsOf& of, const float* from, const u16* norm, bool is_turned, u32 position, float* x) {
  const u32 lane = threadIdx.x & 31;
  float sum = 0.f;
  for (u32 i = lane; i < DIM; i += 32) {
    x[i] = from[i];
    sum += x[i] * x[i];
  }
  if (norm) {
    const float by = rsqrtf(sum_over(sum, 32) / DIM + of.eps);
    for (u32 i = lane; i < DIM; i += 32) x[i] *= by * T::load(norm[i]);
  }
  __syncwarp();
  if (!is_turned) return;
  const u32 pairs = of.turned / 2;
  for (u32 i = lane; i < pairs; i += 32) {
    // Angles of late positions are many turns: these go off in f64.
    double angle = (double)position * of.scale * of.frequencies[i];
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
