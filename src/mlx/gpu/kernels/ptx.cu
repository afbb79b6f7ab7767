// Instructions that C++ has no word for. `tests/kernels` has its own in their place, for a processor.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// x rounded to 16 bits, and the other way.
__device__ __forceinline__ u16 bf16_of(float x) {
  u16 bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

__device__ __forceinline__ u16 f16_of(float x) {
  u16 bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

__device__ __forceinline__ float of_f16(u16 bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}

// c [16, 8] += a [16, 16] b [16, 8] in f32 on tensor cores, for all lanes of a warp. Lane 4g + t has of each pair of numbers, the first in
// the low half, a: outputs g, g + 8, g, g + 8 of inputs 2t, 2t, 2t + 8, 2t + 8; b: inputs 2t, 2t + 8 of row g; c: of outputs g, g, g + 8,
// g + 8 rows 2t and 2t + 1.
__device__ __forceinline__ void mma_bf16(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_f16(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// word & 0x000f000f | bits. Of the two constants the instruction takes only one as such, and left to itself the compiler makes two.
__device__ __forceinline__ u32 nibbles_under(u32 word, u32 bits) {
  u32 both;
  asm("lop3.b32 %0, %1, 0x000f000f, %2, 0xea;" : "=r"(both) : "r"(word), "r"(bits));
  return both;
}

// Two products of bf16, of small ones too.
__device__ __forceinline__ u32 multiply_bf16x2(u32 a, u32 b) {
  u32 product;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(a), "r"(b), "r"(0x80008000u));
  return product;
}

// Into the cache that all blocks share.
__device__ __forceinline__ void expect(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

// From Hopper on a kernel of a graph may begin before the one in front of it has ended: what it reads that no kernel writes it reads
// before this waits for that.
__device__ __forceinline__ void wait_for_the_one_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The kernel behind may begin when all blocks have come here.
__device__ __forceinline__ void let_the_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
