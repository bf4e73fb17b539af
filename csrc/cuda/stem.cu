// The first 3×3 convolution, from callers' planar float32 images: few sums a pixel, so that storing it is all that
// counts.
#include "cuda/elements.h"
#include "cuda/launch.h"
#include "cuda/launchers.h"
#include "cuda/tensor_core.h"

namespace modnas_fast::cuda {

namespace {

constexpr int kPixels = 4;  // neighbours a thread, of 8 channels each
constexpr int kStemThreads = 256;

// The image continued to the target's size by its last row and column; zero beyond that.
__device__ __forceinline__ float continued(const Stem& arguments, const float* plane, int row, int column) {
  const Target& out = arguments.out;
  if (row < 0 || column < 0 || row >= out.rows || column >= out.columns) return 0.0f;
  row = min(row, arguments.rows - 1);
  column = min(column, arguments.columns - 1);
  return plane[row * arguments.strides[2] + column * arguments.strides[3]];
}

__device__ __forceinline__ void load_eight(const float* from, float (&values)[kChunk]) {
  const float4 low = __ldg(reinterpret_cast<const float4*>(from));
  const float4 high = __ldg(reinterpret_cast<const float4*>(from) + 1);
  values[0] = low.x;
  values[1] = low.y;
  values[2] = low.z;
  values[3] = low.w;
  values[4] = high.x;
  values[5] = high.y;
  values[6] = high.z;
  values[7] = high.w;
}

// Threads of a row of blocks: [runs of kPixels, chunks of channels], chunks fastest.
template <typename Type>
__global__ void __launch_bounds__(kStemThreads) stem_kernel(const __grid_constant__ Stem arguments) {
  const Target& out = arguments.out;
  const int chunks = out.channels / kChunk;
  const int thread = static_cast<int>(blockIdx.x) * kStemThreads + static_cast<int>(threadIdx.x);
  const int chunk = thread % chunks, column = thread / chunks * kPixels;
  const int64_t image = blockIdx.z;
  if (column >= out.columns) return;
  wait_for_launch_before();
  for (int row = static_cast<int>(blockIdx.y); row < out.rows; row += static_cast<int>(gridDim.y)) {
    float sums[kPixels][kChunk];
    float weights[kChunk];
    load_eight(arguments.bias + chunk * kChunk, weights);
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
#pragma unroll
      for (int c = 0; c < kChunk; ++c) sums[i][c] = weights[c];
    }
#pragma unroll 1
    for (int channel = 0; channel < arguments.channels; ++channel) {
      const float* plane = arguments.x + image * arguments.strides[0] + channel * arguments.strides[1];
#pragma unroll
      for (int dy = 0; dy < 3; ++dy) {
        float window[kPixels + 2];
#pragma unroll
        for (int x = 0; x < kPixels + 2; ++x) window[x] = continued(arguments, plane, row + dy - 1, column + x - 1);
#pragma unroll
        for (int dx = 0; dx < 3; ++dx) {
          load_eight(arguments.weights + ((3 * dy + dx) * arguments.channels + channel) * out.channels + chunk * kChunk,
                     weights);
#pragma unroll
          for (int i = 0; i < kPixels; ++i) {
#pragma unroll
            for (int c = 0; c < kChunk; ++c) sums[i][c] += window[i + dx] * weights[c];
          }
        }
      }
    }
    uint4* to = reinterpret_cast<uint4*>(out.data) + ((image * out.rows + row) * out.columns + column) * chunks + chunk;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      if (column + i >= out.columns) break;
#pragma unroll
      for (int c = 0; c < kChunk; ++c) sums[i][c] = out.relu && sums[i][c] < 0 ? 0.0f : sums[i][c];
      to[i * chunks] = chunk_of_floats<Type>(sums[i]);
    }
  }
}

}  // namespace

template <typename Type>
cudaError_t launch_stem(const Stem& arguments, cudaStream_t stream) {
  Limits limits;
  const cudaError_t error = current_limits(limits);
  if (error != cudaSuccess) return error;
  const int threads = (arguments.out.columns + kPixels - 1) / kPixels * (arguments.out.channels / kChunk);
  const dim3 grid((threads + kStemThreads - 1) / kStemThreads, min(arguments.out.rows, kMostBlocks), arguments.images);
  return launch_early(stem_kernel<Type>, grid, kStemThreads, 0, limits, stream, arguments);
}

template cudaError_t launch_stem<MODNAS_FAST_ELEMENT>(const Stem&, cudaStream_t);

}  // namespace modnas_fast::cuda
