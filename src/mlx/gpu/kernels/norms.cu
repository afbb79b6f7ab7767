// RMS norms of whole rows, a block for each.

// What a row [width] is multiplied by.
__device__ __forceinline__ float norm_of_block(const float* x, u32 width, float eps) {
  __shared__ float squares[8];
  float square = 0.f;
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) square += x[i] * x[i];
  square = sum_over(square, 32);
  if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32] = square;
  __syncthreads();
  square = 0.f;
  for (u32 i = 0; i < 8; i++) square += squares[i];
  return rsqrtf(square / width + eps);
}

// The next half's input, whole, where `Residual` has what may not fit into the type: in f16 h times a weight may be infinity, and a
// small h loses digits.
template <typename T>
__global__ void __launch_bounds__(256) normalise(u32 width, float eps, Residual to) {
  let_the_next_begin();
  wait_for_the_one_before();
  const u64 start = (u64)blockIdx.x * width;
  const float by = norm_of_block(to.h + start, width, eps);
  for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
    const u16 own = T::round(to.h[start + i] * by * T::load(to.norm[i]));
    to.normed[start + place_of(i, to.order)] = own;
    const float sum = sum_over(T::load(own), TILE);
    if (i % TILE == 0) to.sums[(start + i) / TILE] = sum;
  }
}

// h += multiplier * the norm, by weights `post` [width], of what a half gave: y [rows, width].
template <typename T>
__global__ void __launch_bounds__(256) add_normed(u32 width, float eps, const u16* post, const float* y, Residual to) {
  let_the_next_begin();
  wait_for_the_one_before();
  const u64 start = (u64)blockIdx.x * width;
  const float by = norm_of_block(y + start, width, eps);
  for (u32 i = threadIdx.x; i < width; i += blockDim.x)
    put_number<T>(to, blockIdx.x, width, i, to.h[start + i] + to.multiplier * (y[start + i] * by * T::load(post[i])));
}
