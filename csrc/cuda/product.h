// The sum over K: pixels in shared memory times packed weights, on tensor cores.
//
// K is a sequence of slices of 8 channels. A table says where in the patch each slice of the first pixel is; other
// pixels' are as far from it as the pixels are apart. So every tap is only another address, and products of depth 16
// need not end where a tap's channels do.
#pragma once

#include "cuda/blocks.h"
#include "cuda/tensor_core.h"

namespace modnas_fast::cuda {

template <int kTiles, int kColumns>
struct Sums {
  float values[kTiles][kColumns][4];  // of one lane: see multiply_add
};

template <int kTiles, int kColumns>
__device__ __forceinline__ void begin_with_bias(Sums<kTiles, kColumns>& sums, const float* bias, int channels) {
  const int first = 2 * (static_cast<int>(threadIdx.x) % 4);
#pragma unroll
  for (int j = 0; j < kColumns; ++j) {
    float2 two = make_float2(0, 0);
    if (bias != nullptr && 8 * j < channels) two = __ldg(reinterpret_cast<const float2*>(bias + 8 * j + first));
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      sums.values[i][j][0] = sums.values[i][j][2] = two.x;
      sums.values[i][j][1] = sums.values[i][j][3] = two.y;
    }
  }
}

template <int kColumns>
__device__ __forceinline__ void load_weights(uint2 (&weights)[kColumns], const uint2* packed) {
#pragma unroll
  for (int j = 0; j < kColumns; ++j) weights[j] = __ldg(packed + 32 * j);
}

// Adds the steps begin…end of K, 16 each. `pixels` are the shared addresses of this lane's pixel of each tile, `table`
// that of its slice of step 0, `packed` this lane's weights of step 0, and `stride` what lies between two steps'.
template <typename Type, int kTiles, int kColumns>
__device__ __forceinline__ void multiply(Sums<kTiles, kColumns>& sums, const uint32_t (&pixels)[kTiles],
                                         const int* table, const uint2* packed, int stride, int begin, int end) {
  // Weights are loaded so many steps ahead that those that come from the L2 cache are there in time; where a step takes
  // long one is enough, and registers are scarce.
  constexpr int kAhead = kTiles == 1 ? 3 : kTiles * kColumns <= 10 ? 2 : 1;
  uint2 ahead[kAhead][kColumns];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (begin + i < end) load_weights(ahead[i], packed + (begin + i) * stride);
  }
  if (begin >= end) return;
  uint32_t next_slice = table[2 * begin];
  for (int first = begin; first < end; first += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int step = first + i;
      if (step >= end) break;
      uint2 weights[kColumns];
#pragma unroll
      for (int j = 0; j < kColumns; ++j) weights[j] = ahead[i][j];
      if (step + kAhead < end) load_weights(ahead[i], packed + (step + kAhead) * stride);
      const uint32_t slice = next_slice;
      next_slice = table[2 * min(step + 1, end - 1)];
#pragma unroll
      for (int k = 0; k < kTiles; ++k) {
        uint32_t a[4];
        load_matrices(a, pixels[k] + slice);
#pragma unroll
        for (int j = 0; j < kColumns; ++j) multiply_add<Type>(sums.values[k][j], a, weights[j].x, weights[j].y);
      }
    }
  }
}

// Adds up what the warps that share a sum have, in the first of them. All threads of the block must call it, after
// their last use of the patch, which it overwrites.
template <int kColumns>
__device__ __forceinline__ void add_up(Sums<1, kColumns>& sums, int split, int part, int group, char* shared) {
  const int groups = kWarps / split, lane = static_cast<int>(threadIdx.x) % 32;
  float4* partial = reinterpret_cast<float4*>(shared);
  if (part > 0) {
    float4* mine = partial + ((part - 1) * groups + group) * kColumns * 32 + lane;
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const float* four = sums.values[0][j];
      mine[32 * j] = make_float4(four[0], four[1], four[2], four[3]);
    }
  }
  __syncthreads();
  for (int other = 1; part == 0 && other < split; ++other) {
    const float4* theirs = partial + ((other - 1) * groups + group) * kColumns * 32 + lane;
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const float4 four = theirs[32 * j];
      sums.values[0][j][0] += four.x;
      sums.values[0][j][1] += four.y;
      sums.values[0][j][2] += four.z;
      sums.values[0][j][3] += four.w;
    }
  }
  __syncthreads();
}

}  // namespace modnas_fast::cuda
