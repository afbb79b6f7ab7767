// What adapters of low rank add to products: here scale * (x A); B follows with the product itself (product.cu).

// A part of the inputs by the A of one weight for one row → of.lows. blockIdx is (part, which of the weights, row). `order`: of x.
template <typename T>
__global__ void __launch_bounds__(256) low(Of of, u32 order, float* to) {
  __shared__ float found_of[8][MAX_RANK];
  const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, number = blockIdx.y, row = blockIdx.z;
  const Low* all = of.adapted->lows[row];
  const Low low = all ? all[of.number + number] : Low{nullptr, nullptr, 0.f, 0};
  // Threads that have the same 8 ranks are so many lanes apart.
  const u32 groups = max(low.rank / 8, 1u), group = threadIdx.x % groups, step = blockDim.x / groups;
  const u32 begin = blockIdx.x * LOW_PART + threadIdx.x / groups, end = low.rank == 0 ? 0 : min((blockIdx.x + 1) * LOW_PART, of.inputs);
  const u16* a = low.a + group * 8;
  for (u32 i = begin; i < end; i += step) expect(a + (u64)i * low.rank);
  let_the_next_begin();
  wait_for_the_one_before();
  const u16* x = of.x + (u64)row * of.inputs;
  float own[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
#pragma unroll 4
  for (u32 i = begin; i < end; i += step) {
    const uint4 bits = *(const uint4*)(a + (u64)i * low.rank);
    const u32 pairs[4] = {bits.x, bits.y, bits.z, bits.w};
    const float input = T::load(x[place_of(i, order)]);
#pragma unroll
    for (u32 r = 0; r < 4; r++) {
      const float2 pair = load_pair<T>(pairs[r]);
      own[2 * r] += input * pair.x;
      own[2 * r + 1] += input * pair.y;
    }
  }
#pragma unroll
  for (u32 r = 0; r < 8; r++) {
    for (u32 apart = 16; apart >= groups; apart /= 2) own[r] += __shfl_xor_sync(ALL_LANES, own[r], apart);
    if (lane < groups) found_of[warp][group * 8 + r] = own[r];
  }
  __syncthreads();
  for (u32 r = threadIdx.x; r < low.rank; r += blockDim.x) {
    float sum = 0.f;
    for (u32 w = 0; w < 8; w++) sum += found_of[w][r];
    to[((u64)(row * of.numbers + number) * of.parts + blockIdx.x) * MAX_RANK + r] = low.scale * sum;
  }
}
