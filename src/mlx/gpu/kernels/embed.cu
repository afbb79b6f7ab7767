// Tokens to the numbers that go into the first block. One block for each row.

// A row of the embedding times `scale` → h [rows, width].
template <typename T, int BITS>
__global__ void __launch_bounds__(256) embed(
    const Inputs* inputs, const u32* weight, const void* all_scales, const u16* biases, u32 group, u32 vocab, u32 width,
    float scale, Residual to) {
  const typename ScaleOf<BITS>::Type* scales = (const typename ScaleOf<BITS>::Type*)all_scales;
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
      constexpr u32 BITS_OF = width_of(BITS), PER = 32 / BITS_OF;
      const u32 word = weight[(u64)token * (width / PER) + i / PER];
      const u64 of = (u64)token * (width / group) + i / group;
      const u32 q = (word >> (i % PER * BITS_OF)) & ((1u << BITS_OF) - 1);
      // The bits of an e2m1 as those of an f32 are 2^-126 of it, and its scale is 2^(scale - 127).
      if (BITS == MXFP4)
        x = ldexpf(__uint_as_float((q & 8) << 28 | (q & 7) << 22), (int)scales[of] - 1);
      else
        x = T::load((u16)scales[of]) * (float)q + T::load(biases[of]);
    }
    // Width is whole warps, so all lanes are here.
    put_number<T>(to, row, width, i, x * scale);
  }
}
