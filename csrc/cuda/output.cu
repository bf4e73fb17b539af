// The stage's end for a feature map that is in memory: too wide for the launch that made it to end the stage.
#include "cuda/epilogue.h"
#include "cuda/launchers.h"

namespace modnas_fast::cuda {

namespace {

constexpr int kOutputThreads = 128;
constexpr int kMostAtOnce = 4;  // of the image's channels, in one pass over the feature map

// Not by __ldg: while this launch begins, the one before may still be writing.
__device__ __forceinline__ uint4 read_chunk(const Source& source, int64_t image, int row, int column, int chunk) {
  const int64_t pixel = (image * source.rows + row) * source.columns + column;
  return reinterpret_cast<const uint4*>(source.data)[pixel * (source.channels / kChunk) + chunk];
}

// A thread has a pixel.
template <typename Type>
__global__ void __launch_bounds__(kOutputThreads)
    output_kernel(const __grid_constant__ Source h, const __grid_constant__ Output output) {
  const int column = static_cast<int>(blockIdx.x) * kOutputThreads + static_cast<int>(threadIdx.x);
  const int64_t image = blockIdx.z;
  if (column >= output.columns) return;
  wait_for_launch_before();
  for (int row = static_cast<int>(blockIdx.y); row < output.rows; row += static_cast<int>(gridDim.y)) {
    for (int first = 0; first < output.channels; first += kMostAtOnce) {
      float v[kMostAtOnce] = {};
      for (int chunk = 0; chunk < h.channels / kChunk; ++chunk) {
        float values[kChunk];
        floats_of_chunk<Type>(read_chunk(h, image, row, column, chunk), values);
#pragma unroll
        for (int i = 0; i < kMostAtOnce; ++i) {
          if (first + i >= output.channels) continue;
          const float* weights = output.weights + (first + i) * h.channels + kChunk * chunk;
#pragma unroll
          for (int c = 0; c < kChunk; ++c) v[i] += relu(values[c]) * __ldg(weights + c);
        }
      }
#pragma unroll
      for (int i = 0; i < kMostAtOnce; ++i) {
        const int channel = first + i;
        if (channel < output.channels) {
          relax(output, image, channel, row, column, v[i] + __ldg(output.bias + channel));
        }
      }
    }
  }
}

}  // namespace

template <typename Type>
cudaError_t launch_output(int images, const Source& h, const Output& arguments, cudaStream_t stream) {
  Limits limits;
  const cudaError_t error = current_limits(limits);
  if (error != cudaSuccess) return error;
  const dim3 grid((arguments.columns + kOutputThreads - 1) / kOutputThreads, min(arguments.rows, kMostBlocks), images);
  return launch_early(output_kernel<Type>, grid, kOutputThreads, 0, limits, stream, h, arguments);
}

template cudaError_t launch_output<MODNAS_FAST_ELEMENT>(int, const Source&, const Output&, cudaStream_t);

}  // namespace modnas_fast::cuda
