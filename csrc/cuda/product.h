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
  const float2* const pairs = reinterpret_cast<const float2*>(bias) + threadIdx.x % 4;
#pragma unroll
  for (int j = 0; j < kColumns; ++j) {
    float2 two = make_float2(0, 0);
    if (8 * j < channels) two = __ldg(pairs + 4 * j);
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      sums.values[i][j][0] = sums.values[i][j][2] = two.x;
      sums.values[i][j][1] = sums.values[i][j][3] = two.y;
    }
  }
}

// A warp's steps begin…end of K, 16 each, and the weights of the first. `packed` are this lane's weights of step 0, and
// `stride` what lies between two steps'.
template <int kTiles, int kColumns>
struct Factor {
  // Weights are loaded so many steps ahead that those that come from the L2 cache are there in time; where a step takes
  // long one is enough, and registers are scarce.
  static constexpr int kAhead = kTiles == 1 ? kMostAhead : kTiles * kColumns <= 10 ? 2 : 1;

  __device__ __forceinline__ Factor(const uint2* packed, int stride, int begin, int end)
      : begin(begin), end(end), stride(stride), next(packed + begin * stride) {
    // Not by __ldg, which the assembler moves behind wait_for_launch_before().
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (begin < end) load(i);
    }
  }

  __device__ __forceinline__ void load(int slot) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) weights[slot][j] = next[32 * j];
    next += stride;
  }

  int begin, end, stride;
  const uint2* next;
  uint2 weights[kAhead + 1][kColumns];  // of step s in slot s mod so many
};

// Adds the steps of K. `pixels` are the shared addresses of this lane's pixel of each tile, `table` that of its slice of
// step 0; there is a slice after the last.
template <typename Type, int kTiles, int kColumns>
__device__ __forceinline__ void multiply(Sums<kTiles, kColumns>& sums, const uint32_t (&pixels)[kTiles],
                                         const int* table, Factor<kTiles, kColumns>& factor) {
  constexpr int kSlots = Factor<kTiles, kColumns>::kAhead + 1;
  if (factor.begin >= factor.end) return;
  table += 2 * factor.begin;
  uint32_t slice = *table;
  const auto step = [&](int slot) {
    const uint32_t now = slice;
    table += 2;
    slice = *table;
#pragma unroll
    for (int k = 0; k < kTiles; ++k) {
      uint32_t a[4];
      load_matrices(a, pixels[k] + now);
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        multiply_add<Type>(sums.values[k][j], a, factor.weights[slot][j].x, factor.weights[slot][j].y);
      }
    }
  };
  int steps = factor.end - factor.begin;
#pragma unroll 1
  for (; steps >= kSlots; steps -= kSlots) {  // without a branch, across which the assembler would move loads
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      factor.load((i + kSlots - 1) % kSlots);
      step(i);
    }
  }
#pragma unroll
  for (int i = 0; i < kSlots - 1; ++i) {
    if (i >= steps) break;
    step(i);
  }
}

// Adds up what the warps that share a sum have, in the first of them. All threads of the block must call it, after
// their last use of the patch, which it overwrites.
template <int kColumns>
__device__ __forceinline__ void add_up(Sums<1, kColumns>& sums, int split_shift, int part, int group, char* shared) {
  const int groups = kWarps >> split_shift, split = 1 << split_shift, lane = static_cast<int>(threadIdx.x % 32);
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
