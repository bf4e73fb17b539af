// k×k depthwise convolution of a patch: from shared memory to shared memory, for a 1×1 convolution to read.
#pragma once

#include "cuda/patch.h"

namespace modnas_fast::cuda {

// A thread's walk over [rows, columns, chunks] in steps of a block's threads, without a division a step.
class Walk {
 public:
  __device__ __forceinline__ Walk(int columns, int chunks)
      : columns_(columns), chunks_(chunks), step_chunk_(kThreads % chunks), step_column_(kThreads / chunks % columns),
        step_row_(kThreads / chunks / columns) {
    const int thread = static_cast<int>(threadIdx.x);
    chunk = thread % chunks;
    column = thread / chunks % columns;
    row = thread / chunks / columns;
  }
  __device__ __forceinline__ void next() {
    chunk += step_chunk_;
    column += step_column_;
    row += step_row_;
    if (chunk >= chunks_) {
      chunk -= chunks_;
      ++column;
    }
    if (column >= columns_) {
      column -= columns_;
      ++row;
    }
  }
  int row, column, chunk;

 private:
  int columns_, chunks_, step_chunk_, step_column_, step_row_;
};

// Each thread computes kRun pixels of 8 channels at a time. `weights` [kernel², channels], `bias` [channels]. Not
// inlined: it is the same for every width of the 1×1 convolution, and most of the compiler's time.
template <typename Type, int kKernel, int kDilation>
__device__ __attribute__((noinline)) void convolve_depthwise(const Blocks& blocks, const uint4* weights,
                                                              const float* bias, int chunks, char* shared) {
  constexpr int kWindow = kRun + (kKernel - 1) * kDilation;
  const int runs_shift = blocks.tile_shift - 2;  // of kRun, a row of the tile
  const Patch& patch = blocks.patch;
  for (Walk walk(1 << runs_shift, chunks); walk.row < blocks.tile_rows; walk.next()) {
    float sums[kRun][kChunk];
    const float4 low = __ldg(reinterpret_cast<const float4*>(bias) + 2 * walk.chunk);
    const float4 high = __ldg(reinterpret_cast<const float4*>(bias) + 2 * walk.chunk + 1);
    const float start[kChunk] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
#pragma unroll
      for (int c = 0; c < kChunk; ++c) sums[i][c] = start[c];
    }
    const int column = kRun * walk.column;
#pragma unroll 1
    for (int dy = 0; dy < kKernel; ++dy) {
      uint4 taps[kKernel];
#pragma unroll
      for (int dx = 0; dx < kKernel; ++dx) taps[dx] = __ldg(weights + (dy * kKernel + dx) * chunks + walk.chunk);
      const int pixel = (walk.row + kDilation * dy) * patch.columns + column;
      const char* from = shared + pixel * patch.pixel_bytes + 16 * walk.chunk;
#pragma unroll
      for (int x = 0; x < kWindow; ++x) {
        float values[kChunk];
        floats_of_chunk<Type>(*reinterpret_cast<const uint4*>(from + x * patch.pixel_bytes), values);
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
          if (x < i || (x - i) % kDilation != 0 || (x - i) / kDilation >= kKernel) continue;
          float tap[kChunk];
          floats_of_chunk<Type>(taps[(x - i) / kDilation], tap);
#pragma unroll
          for (int c = 0; c < kChunk; ++c) sums[i][c] += values[c] * tap[c];
        }
      }
    }
    char* to = shared + blocks.middle_begin + 16 * walk.chunk;
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      const int pixel = (walk.row << blocks.tile_shift) + column + i;
      *reinterpret_cast<uint4*>(to + pixel * blocks.middle_pixel_bytes) = chunk_of_floats<Type>(sums[i]);
    }
  }
}

}  // namespace modnas_fast::cuda
