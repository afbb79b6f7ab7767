// Weights [out, in] as MLX packs them, multiplied by tensor cores: 16 outputs by 8 rows, a chunk of inputs at a time.
//
// The order of inputs in a product of tensor cores is free where both sides have the same: so lane 4g + t takes neighbouring inputs
// of outputs g and g + 8, as they lie in memory, and those inputs of row g, which whoever wrote them has put into the order in which
// they come out of packed words (`place_of`). Bits of weights are put under an exponent: OFFSET + q is exact, products are summed in
// f32, and what OFFSET made too much goes off with the inputs' sums: y += scale * acc + (bias - OFFSET * scale) * sum.
//
// BITS of a weight says how its numbers are written: as so many bits with a scale and a bias, as floats (16), or as MXFP4.

// Numbers e2m1, and for each 32 of them a power of two.
constexpr int MXFP4 = 256 + 4;

// Of a number.
__host__ __device__ constexpr int width_of(int bits) { return bits % 256; }

struct Weight {
  const void* w;       // [out, in * BITS / 8] bytes
  const void* scales;  // [out, in / GROUP]; of MXFP4 bytes
  const u16* biases;   // the same; of MXFP4 none
  const u16* bias;    // [out], or none
  u32 out;
  u32 first;          // where its outputs begin among those of all
  u32 number;         // among the products that adapters may add to
  u32 column, width;  // where its outputs begin in an adapter's B, and how wide that is
};

// One of two, in registers: a pointer to one of them would put both into memory.
__device__ __forceinline__ Weight either(bool first, const Weight& a, const Weight& b) {
  Weight one;
  one.w = first ? a.w : b.w;
  one.scales = first ? a.scales : b.scales;
  one.biases = first ? a.biases : b.biases;
  one.bias = first ? a.bias : b.bias;
  one.out = first ? a.out : b.out;
  one.first = first ? a.first : b.first;
  one.number = first ? a.number : b.number;
  one.column = first ? a.column : b.column;
  one.width = first ? a.width : b.width;
  return one;
}

// What 4 lanes load of an output at once: INPUTS inputs, as many bytes for each lane.
template <int BYTES>
struct Words;
template <>
struct Words<16> {
  typedef uint4 Type;
};
template <>
struct Words<8> {
  typedef uint2 Type;
};

template <int BITS>
struct ScaleOf {
  typedef u16 Type;
};
template <>
struct ScaleOf<MXFP4> {
  typedef unsigned char Type;
};

// What a lane has of some inputs: weights of two outputs, and their scales and biases.
template <int BITS, int GROUP, int INPUTS>
struct Chunk {
  typedef typename Words<INPUTS * width_of(BITS) / 32>::Type Own;
  // Whose sums of inputs are asked for.
  static constexpr int GROUPS = BITS >= 16 ? 0 : INPUTS > GROUP ? INPUTS / GROUP : 1;
  Own w[2];
  u32 scales[2], biases[2];
};

// Where a lane reads them: it goes on from chunk to chunk.
template <int BITS, int GROUP, int INPUTS>
struct Source {
  typedef Chunk<BITS, GROUP, INPUTS> C;
  typedef typename ScaleOf<BITS>::Type Scale;
  // Of the scales of a chunk and those of the next, in numbers; where several chunks have one scale it is 0.
  static constexpr u32 SCALES = GROUP > INPUTS ? 0 : INPUTS / GROUP;
  const typename C::Own* w[2];
  const Scale* scales[2];
  const u16* biases[2];

  // Behind the last output the last one is read again, and what comes of it goes nowhere.
  __device__ __forceinline__ Source(const Weight& weight, u32 tile, u32 inputs, u32 chunk, int lane) {
#pragma unroll
    for (int of = 0; of < 2; of++) {
      const u64 row = min(tile * TILE + (lane >> 2) + 8 * of, weight.out - 1);
      w[of] = (const typename C::Own*)weight.w + row * (inputs / INPUTS * 4) + (lane & 3) + chunk * 4;
      scales[of] = (const Scale*)weight.scales + row * (inputs / GROUP) + chunk * SCALES;
      if (BITS == MXFP4) scales[of] += (lane & 3) * (INPUTS / 4) / GROUP;
      biases[of] = weight.biases + row * (inputs / GROUP) + chunk * SCALES;
    }
  }

  __device__ __forceinline__ void go_on(u32 chunks) {
#pragma unroll
    for (int of = 0; of < 2; of++) {
      w[of] += chunks * 4;
      scales[of] += chunks * SCALES;
      biases[of] += chunks * SCALES;
    }
  }

  // The one so many behind; `chunk`: which that is.
  __device__ __forceinline__ void load(C& to, int behind, u32 chunk) const {
#pragma unroll
    for (int of = 0; of < 2; of++) {
      to.w[of] = __ldcs(w[of] + behind * 4);
      if (BITS == MXFP4) {
        to.scales[of] = scales[of][behind * SCALES];
      } else if (C::GROUPS == 2) {
        to.scales[of] = ((const u32*)scales[of])[behind];
        to.biases[of] = ((const u32*)biases[of])[behind];
      } else if (C::GROUPS == 1) {
        const u32 at = SCALES > 0 ? behind * SCALES : chunk * INPUTS / GROUP;
        to.scales[of] = scales[of][at];
        to.biases[of] = biases[of][at];
      }
    }
  }
};

// Two numbers of 4 bits, these bits on, as OFFSET + q.
template <typename T>
__device__ __forceinline__ u32 unpacked(u32 word, int shift) {
  return nibbles_under(word >> shift, T::MAGIC);
}

// 8 inputs of two outputs by 4 bits: acc += the words times x.
template <typename T>
__device__ __forceinline__ void multiply_words(float (&acc)[4], u32 low, u32 high, const uint4& x) {
  T::mma(acc, unpacked<T>(low, 0), unpacked<T>(high, 0), unpacked<T>(low, 4), unpacked<T>(high, 4), x.x, x.y);
  T::mma(acc, unpacked<T>(low, 8), unpacked<T>(high, 8), unpacked<T>(low, 12), unpacked<T>(high, 12), x.z, x.w);
}

// The same by MXFP4: the bits as those of a bf16, which then is 2^-126 of what they mean, exactly, times what `scaled` makes of their
// scale.
__device__ __forceinline__ u32 unpacked_e2m1(u32 word, int at, u32 scale) {
  const u32 signs = word << (12 - at), rest = at > 6 ? word >> (at - 6) : word << (6 - at);
  const u32 bits = (signs & 0x80008000u) | (rest & 0x01c001c0u);
  return multiply_bf16x2(bits, scale);
}

// 2^126 times a power of two as MXFP4 has it, twice as bf16: no more than 2^1.
__device__ __forceinline__ u32 scaled(u32 scale) { return (scale + 126) * 0x00800080u; }

__device__ __forceinline__ void multiply_e2m1(float (&acc)[4], u32 low, u32 high, u32 low_scale, u32 high_scale, const uint4& x) {
  auto l = [&](int at) { return unpacked_e2m1(low, at, low_scale); };
  auto h = [&](int at) { return unpacked_e2m1(high, at, high_scale); };
  Bf16::mma(acc, l(0), h(0), l(4), h(4), x.x, x.y);
  Bf16::mma(acc, l(8), h(8), l(12), h(12), x.z, x.w);
}

// The first of a chunk's inputs that lane 4g + t multiplies with.
template <int BITS, int GROUP, int INPUTS>
__device__ __forceinline__ u32 first_of(u32 t) {
  return BITS == 4 && GROUP < INPUTS ? 32 * (t & 1) + 16 * (t >> 1) : INPUTS / 4 * t;
}

// total [16, 8] += the chunk times x; own: the row of this lane, from `first_of` the chunk on; sums [groups, MAX_ROWS], from the chunk's
// first group and the lane's rows on
template <typename T, int BITS, int GROUP, int INPUTS>
__device__ __forceinline__ void multiply(
    float (&total)[4], const Chunk<BITS, GROUP, INPUTS>& chunk, const u16* own, const float* sums, int lane) {
  const auto& w = chunk.w;
  auto x = [&](u32 at) { return *(const uint4*)(own + at); };
  auto add = [&](const float (&acc)[4], float offset, u32 half) {
    const float2 sum = *(const float2*)(sums + half * MAX_ROWS);
#pragma unroll
    for (int of = 0; of < 2; of++) {
      const float scale = T::load((u16)(chunk.scales[of] >> (16 * half)));
      const float bias = T::load((u16)(chunk.biases[of] >> (16 * half))) - offset * scale;
      total[2 * of] += scale * acc[2 * of] + bias * sum.x;
      total[2 * of + 1] += scale * acc[2 * of + 1] + bias * sum.y;
    }
  };
  if constexpr (BITS == 16) {
    const uint4 b = x(0);
    T::mma(total, w[0].x, w[1].x, w[0].y, w[1].y, b.x, b.y);
    T::mma(total, w[0].z, w[1].z, w[0].w, w[1].w, b.z, b.w);
  } else if constexpr (BITS == MXFP4) {
    const u32 a = scaled(chunk.scales[0]), b = scaled(chunk.scales[1]);
    multiply_e2m1(total, w[0].x, w[1].x, a, b, x(0));
    multiply_e2m1(total, w[0].y, w[1].y, a, b, x(8));
    if constexpr (INPUTS == 128) {
      multiply_e2m1(total, w[0].z, w[1].z, a, b, x(16));
      multiply_e2m1(total, w[0].w, w[1].w, a, b, x(24));
    }
  } else if constexpr (BITS == 8) {
    // 4 inputs a word, the low halves of its bytes and the high ones.
    float acc[4] = {0.f, 0.f, 0.f, 0.f}, upper[4] = {0.f, 0.f, 0.f, 0.f};
    const u32 low[4] = {w[0].x, w[0].y, w[0].z, w[0].w}, high[4] = {w[1].x, w[1].y, w[1].z, w[1].w};
    const uint4 x0 = x(0), x1 = x(8);
    const u32 b[8] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
    auto bits = [](u32 word, int shift) { return unpacked<T>(word, shift); };
#pragma unroll
    for (int i = 0; i < 4; i++) {
      T::mma(acc, bits(low[i], 0), bits(high[i], 0), bits(low[i], 8), bits(high[i], 8), b[2 * i], b[2 * i + 1]);
      T::mma(upper, bits(low[i], 4), bits(high[i], 4), bits(low[i], 12), bits(high[i], 12), b[2 * i], b[2 * i + 1]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) acc[i] += 16.f * upper[i];
    add(acc, 17.f * T::OFFSET, 0);
  } else if constexpr (INPUTS == 64) {
    float acc[4] = {0.f, 0.f, 0.f, 0.f};
    multiply_words<T>(acc, w[0].x, w[1].x, x(0));
    multiply_words<T>(acc, w[0].y, w[1].y, x(8));
    add(acc, T::OFFSET, 0);
  } else if constexpr (GROUP == INPUTS) {
    float acc[4] = {0.f, 0.f, 0.f, 0.f};
    multiply_words<T>(acc, w[0].x, w[1].x, x(0));
    multiply_words<T>(acc, w[0].y, w[1].y, x(8));
    multiply_words<T>(acc, w[0].z, w[1].z, x(16));
    multiply_words<T>(acc, w[0].w, w[1].w, x(24));
    add(acc, T::OFFSET, 0);
  } else {
    static_assert(2 * GROUP == INPUTS);
    // Lanes 0 and 1 have inputs of the first group, 2 and 3 of the second. All four are to have some of each: half goes over.
    const bool second = (lane & 3) >= 2;
    uint2 words[2][2];
#pragma unroll
    for (int of = 0; of < 2; of++) {
      const uint4 had = w[of];
      const u32 given[2] = {second ? had.x : had.z, second ? had.y : had.w};
      const u32 got[2] = {__shfl_xor_sync(ALL_LANES, given[0], 2), __shfl_xor_sync(ALL_LANES, given[1], 2)};
      words[0][of] = second ? make_uint2(got[0], got[1]) : make_uint2(had.x, had.y);
      words[1][of] = second ? make_uint2(had.z, had.w) : make_uint2(got[0], got[1]);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float acc[4] = {0.f, 0.f, 0.f, 0.f};
      multiply_words<T>(acc, words[half][0].x, words[half][1].x, x(GROUP * half));
      multiply_words<T>(acc, words[half][0].y, words[half][1].y, x(GROUP * half + 8));
      add(acc, T::OFFSET, half);
    }
  }
}
