// The two half-precision element types: pairs of them in 32 bits, as the tensor cores take them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

namespace modnas_fast::cuda {

template <typename To, typename From>
__host__ __device__ __forceinline__ To same_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "as many bits");
  To to;
  memcpy(static_cast<void*>(&to), &from, sizeof(to));
  return to;
}

struct Float16 {
  using Pair = __half2;
  __host__ __device__ static uint32_t pair(float low, float high) {
    return same_bits<uint32_t>(__floats2half2_rn(low, high));
  }
  __device__ static float2 floats(uint32_t pair) { return __half22float2(same_bits<Pair>(pair)); }
};

struct Bfloat16 {
  using Pair = __nv_bfloat162;
  __host__ __device__ static uint32_t pair(float low, float high) {
    return same_bits<uint32_t>(__floats2bfloat162_rn(low, high));
  }
  __device__ static float2 floats(uint32_t pair) { return __bfloat1622float2(same_bits<Pair>(pair)); }
};

// max(0, ·) of both. A NaN stays one: those that arithmetic makes have no sign.
template <typename Type>
__device__ __forceinline__ uint32_t relu_pair(uint32_t pair) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  using Pair = typename Type::Pair;
  return same_bits<uint32_t>(__hmax2_nan(same_bits<Pair>(pair), same_bits<Pair>(0u)));
#else
  const uint32_t negative = (pair >> 15 & 0x00010001u) * 0xFFFFu;
  return pair & ~negative;
#endif
}
__device__ __forceinline__ float relu(float value) { return value < 0 ? 0.0f : value; }

constexpr int kChunk = 8;  // channels in 16 bytes, which are loaded and stored as one

template <typename Type>
__device__ __forceinline__ uint4 relu_chunk(uint4 chunk) {
  return make_uint4(relu_pair<Type>(chunk.x), relu_pair<Type>(chunk.y), relu_pair<Type>(chunk.z),
                    relu_pair<Type>(chunk.w));
}

template <typename Type>
__device__ __forceinline__ void floats_of_chunk(uint4 chunk, float (&values)[kChunk]) {
  const uint32_t pairs[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 two = Type::floats(pairs[i]);
    values[2 * i] = two.x;
    values[2 * i + 1] = two.y;
  }
}

template <typename Type>
__device__ __forceinline__ uint4 chunk_of_floats(const float (&values)[kChunk]) {
  return make_uint4(Type::pair(values[0], values[1]), Type::pair(values[2], values[3]),
                    Type::pair(values[4], values[5]), Type::pair(values[6], values[7]));
}

}  // namespace modnas_fast::cuda
