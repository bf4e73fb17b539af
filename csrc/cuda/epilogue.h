// What becomes of a warp's sums: rounded and stored as activations, or carried on to the stage's end, or both.
#pragma once

#include <cfloat>

#include "cuda/product.h"

namespace modnas_fast::cuda {

// Where the pixels of a block lie in the output: its pixel p is at (scale·(row + p / 2^shift) + row_offset, …).
struct Place {
  int64_t image;
  int row, column, shift;
  int scale, row_offset, column_offset;

  __device__ __forceinline__ int row_of(int pixel) const { return scale * (row + (pixel >> shift)) + row_offset; }
  __device__ __forceinline__ int column_of(int pixel) const {
    return scale * (column + (pixel & ((1 << shift) - 1))) + column_offset;
  }
};

// x = v + δ·(y − v) of one pixel and channel.
__device__ __forceinline__ void relax(const Output& output, int64_t image, int channel, int row, int column, float v) {
  const int64_t* from = output.y_strides;
  const int64_t* to = output.x_strides;
  const float y = output.y[image * from[0] + channel * from[1] + row * from[2] + column * from[3]];
  const float x = v + output.delta * (y - v);
  output.x[image * to[0] + channel * to[1] + row * to[2] + column * to[3]] = x;
  if (!(fabsf(x) <= FLT_MAX)) *output.not_finite = 1;
}

// The warp has all of its pixels' channels: each lane two of every eight, which four neighbours add up. Through shared
// memory, so that a lane has a pixel. `staging` is the warp's; the sums are rectified, once and for all.
template <int kTiles, int kColumns>
__device__ __forceinline__ void end_stage(Sums<kTiles, kColumns>& sums, const Output& output, const Place& place,
                                          int first_pixel, int channels, float* staging) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
#pragma unroll
      for (int k = 0; k < 4; ++k) sums.values[i][j][k] = relu(sums.values[i][j][k]);
    }
  }
#pragma unroll 1
  for (int channel = 0; channel < output.channels; ++channel) {
    const float* weights = output.weights + channel * channels + 2 * (lane % 4);
    float parts[kTiles][2] = {};
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const float2 two = __ldg(reinterpret_cast<const float2*>(weights + 8 * j));
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        const float* four = sums.values[i][j];
        parts[i][0] += four[0] * two.x + four[1] * two.y;
        parts[i][1] += four[2] * two.x + four[3] * two.y;
      }
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float v = parts[i][half];
        v += __shfl_xor_sync(0xFFFFFFFFu, v, 1);
        v += __shfl_xor_sync(0xFFFFFFFFu, v, 2);
        if (lane % 4 == 0) staging[kTilePixels * i + 8 * half + lane / 4] = v;
      }
    }
    __syncwarp();
    const float bias = __ldg(output.bias + channel);
#pragma unroll 1
    for (int pixel = lane; pixel < kTilePixels * kTiles; pixel += 32) {
      const int row = place.row_of(first_pixel + pixel), column = place.column_of(first_pixel + pixel);
      if (row < output.rows && column < output.columns) {
        relax(output, place.image, channel, row, column, staging[pixel] + bias);
      }
    }
    __syncwarp();
  }
}

// Through shared memory, so that lanes store 16 neighbouring bytes each and warps whole lines. `staging` is the warp's.
template <typename Type, int kTiles, int kColumns>
__device__ __forceinline__ void store(const Sums<kTiles, kColumns>& sums, const Target& out, const Place& place,
                                      int first_pixel, int first_channel, char* staging) {
  constexpr int kPixelBytes = odd_chunks(kColumns), kChunks = kTilePixels * kTiles * kColumns;
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t pair = Type::pair(sums.values[i][j][2 * half], sums.values[i][j][2 * half + 1]);
        const int pixel = kTilePixels * i + 8 * half + lane / 4;
        uint32_t* const to = reinterpret_cast<uint32_t*>(staging + pixel * kPixelBytes + 16 * j + 4 * (lane % 4));
        *to = out.relu ? relu_pair<Type>(pair) : pair;
      }
    }
  }
  __syncwarp();
  const int chunks = out.channels / kChunk, first_chunk = first_channel / kChunk, row_chunks = out.columns * chunks;
  const int rows = out.rows - place.row_of(0), columns = out.columns - place.column_of(0);  // from the block's first
  const int64_t first = (place.image * out.rows + place.row_of(0)) * out.columns + place.column_of(0);
  uint4* const to = reinterpret_cast<uint4*>(out.data) + first * chunks + first_chunk;
#pragma unroll 2
  for (int i = lane; i < kChunks; i += 32) {
    const int pixel = i / kColumns, chunk = i - pixel * kColumns;
    const int row = place.scale * ((first_pixel + pixel) >> place.shift);
    const int column = place.scale * ((first_pixel + pixel) & ((1 << place.shift) - 1));
    if (row >= rows || column >= columns || chunk >= chunks - first_chunk) continue;
    to[static_cast<int64_t>(row) * row_chunks + column * chunks + chunk] =
        *reinterpret_cast<const uint4*>(staging + pixel * kPixelBytes + 16 * chunk);
  }
}

// `group` is the warp's number among those that have sums, and shared memory no longer needed.
template <typename Type, int kTiles, int kColumns>
__device__ __forceinline__ void finish(Sums<kTiles, kColumns>& sums, const Target& out, const Output& output,
                                       const Place& place, int group, int first_channel, char* shared) {
  constexpr int kPixels = kTilePixels * kTiles;
  char* const staging = shared + group * kPixels * odd_chunks(kColumns);
  if (out.data != nullptr) store<Type>(sums, out, place, group * kPixels, first_channel, staging);
  if (output.weights != nullptr) {
    __syncwarp();
    end_stage(sums, output, place, group * kPixels, out.channels, reinterpret_cast<float*>(staging));
  }
}

}  // namespace modnas_fast::cuda
