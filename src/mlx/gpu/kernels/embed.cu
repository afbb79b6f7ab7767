// Tokens to the numbers that go into the first block. One block for each row.

// A row of the embedding times `scale` → h [rows, width] f32; and as `residual`: what comes of it with the first norm's weight
// [rows, width], sums of that and of the squares of h by tiles [rows, width / TILE].
template <typename T, int BITS>
__global__ void __launch_bounds__(256) embed(
    const Inputs* inputs, const u32* weight, const u16* scales, const u16* biases, u32 group, u32 vocab, u32 width,
    float scale, const u16* norm, float* h, u16* normed, u32 order, float* sums, float* squares) {
  let_the_next_begin();
  wait_for_the_one_before();
  const u32 row = blockIdx.x;
  // A token that the model does not have is nobody's; what comes of it must only not be read elsewhere.
  const u32 token = min(inputs->tokens[row], vocab - 1);
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    float x;
    if (BITS == 16) {
      x = T::load(((const u16*)weight)[(u64)token * width + i]);
    } else {
      constexpr u32 PER = 32 / BITS;
      const u32 word = weight[(u64)token * (width / PER) + i / PER];
      const u64 of = (u64)token * (width / group) + i / group;
      const float q = (float)((word >> (i % PER * BITS)) & ((1u << BITS) - 1));
      x = T::load(scales[of]) * q + T::load(biases[of]);
    }
    x *= scale;
    const u64 start = (u64)row * width;
    const u16 own = T::round(x * T::load(norm[i]));
    h[start + i] = x;
    normed[start + place_of(i, order)] = own;
    // Width is whole warps, so all lanes are here.
    const float square = sum_over(x * x, TILE), sum = sum_over(T::load(own), TILE);
    if (i % TILE == 0) {
      squares[(start + i) / TILE] = square;
      sums[(start + i) / TILE] = sum;
    }
  }
}

// An RMS norm of h [rows, width], whole, where what `residual` leaves behind may not fit into the type: in f16 h times a weight may be
// infinity, and a small h loses digits. A block for each row.
template <typename T>
__global__ void __launch_bounds__(256) normalise(
    u32 width, float eps, const u16* norm, const float* h, u16* normed, u32 order, float* sums) {
  __shared__ float squares[8];
  let_the_next_begin();
  wait_for_the_one_before();
  const u64 start = (u64)blockIdx.x * width;
  float square = 0.f;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) square += h[start + i] * h[start + i];
  square = sum_over(square, 32);
  if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32] = square;
  __syncthreads();
  square = 0.f;
  for (u32 i = 0; i < 8; i++) square += squares[i];
  const float by = rsqrtf(square / width + eps);
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    const u16 own = T::round(h[start + i] * by * T::load(norm[i]));
    normed[start + place_of(i, order)] = own;
    const float sum = sum_over(T::load(own), TILE);
    if (i % TILE == 0) sums[(start + i) / TILE] = sum;
  }
}
