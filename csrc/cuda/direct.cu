// Convolutions in float32, summed one product after another: for exactness, not for speed. A thread computes kChannels
// channels of one output pixel. Weights stay matrices, row by row.
#include <cfloat>
#include <cmath>
#include <cstring>

#include "cuda/launch.h"
#include "cuda/launchers.h"

namespace modnas_fast::cuda {

namespace {

constexpr int kChannels = 8;  // of a pixel, a thread
constexpr int kThreads = 128;

struct Pixel {
  int64_t image;
  int row, column;
  bool inside;
};

__device__ Pixel pixel_of_thread(int images, int rows, int columns) {
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t row = index / columns;
  return {row / rows, static_cast<int>(row % rows), static_cast<int>(index % columns),
          index < int64_t{images} * rows * columns};
}

__device__ float in_memory(const Source& source, int64_t image, int row, int column, int channel) {
  const float* data = static_cast<const float*>(source.data);
  return data[((image * source.rows + row) * source.columns + column) * source.channels + channel];
}

// The neighbour that bilinear interpolation mixes a quarter of into pixel `place` of the larger tensor.
__device__ int neighbour(int place, int size) { return min(max(place / 2 + (place % 2 == 0 ? -1 : 1), 0), size - 1); }

__device__ float read(const Source& source, int64_t image, int row, int column, int channel) {
  const int scale = source.interpolation == Interpolation::kNone ? 1 : 2;
  if (row < 0 || column < 0 || row >= scale * source.rows || column >= scale * source.columns) return 0;
  const int y = row / scale, x = column / scale;
  const float nearest = in_memory(source, image, y, x, channel);
  if (source.interpolation != Interpolation::kBilinear) return nearest;
  const int y2 = neighbour(row, source.rows), x2 = neighbour(column, source.columns);
  const float upper = 0.75f * nearest + 0.25f * in_memory(source, image, y, x2, channel);
  const float lower =
      0.75f * in_memory(source, image, y2, x, channel) + 0.25f * in_memory(source, image, y2, x2, channel);
  return 0.75f * upper + 0.25f * lower;
}

__device__ float rectified(float value, bool relu) { return relu && value < 0 ? 0.0f : value; }  // NaN stays

// sums[j] += value · row[j]
__device__ void add_product(float* sums, float value, const float* row) {
  for (int j = 0; j < kChannels; ++j) sums[j] += value * row[j];
}

__device__ void store(const Target& out, const Pixel& pixel, int row, int column, int channel, const float* sums) {
  const int64_t place = (pixel.image * out.rows + row) * out.columns + column;
  float* to = static_cast<float*>(out.data) + place * out.channels + channel;
  for (int j = 0; j < kChannels; ++j) to[j] = rectified(sums[j], out.relu);
}

__global__ void convolution_kernel(const Convolution arguments) {
  const Target& out = arguments.out;
  const Pixel pixel =
      pixel_of_thread(arguments.images, out.rows / arguments.scale, out.columns / arguments.scale);
  if (!pixel.inside) return;
  const Phase& phase = arguments.phases[blockIdx.z];
  const int channel = blockIdx.y * kChannels;
  float sums[kChannels];
  for (int j = 0; j < kChannels; ++j) sums[j] = arguments.bias[blockIdx.z * out.channels + channel + j];
  const float* weights = static_cast<const float*>(phase.weights) + channel;
  for (int tap = 0; tap < phase.num_taps; ++tap) {
    const int row = arguments.stride * pixel.row + phase.taps[tap].dy;
    const int column = arguments.stride * pixel.column + phase.taps[tap].dx;
    for (int i = 0; i < 2 && arguments.sources[i].data != nullptr; ++i) {
      const Source& source = arguments.sources[i];
      for (int k = 0; k < source.channels; ++k, weights += out.channels) {
        add_product(sums, rectified(read(source, pixel.image, row, column, k), arguments.relu), weights);
      }
    }
  }
  const int row = arguments.scale * pixel.row + phase.row, column = arguments.scale * pixel.column + phase.column;
  if (arguments.shortcut.data != nullptr) {
    for (int k = 0; k < arguments.shortcut.channels; ++k, weights += out.channels) {
      add_product(sums, read(arguments.shortcut, pixel.image, row, column, k), weights);
    }
  }
  store(out, pixel, row, column, channel, sums);
}

__global__ void separable_kernel(const Separable arguments) {
  const Target& out = arguments.out;
  const Pixel pixel = pixel_of_thread(arguments.images, out.rows, out.columns);
  if (!pixel.inside) return;
  const int channel = blockIdx.y * kChannels, reach = arguments.kernel / 2;
  float sums[kChannels];
  for (int j = 0; j < kChannels; ++j) sums[j] = arguments.bias[channel + j];
  const float* taps = static_cast<const float*>(arguments.depthwise_weights);
  const float* weights = static_cast<const float*>(arguments.weights) + channel;
  const int channels = arguments.source.channels;
  for (int k = 0; k < channels; ++k, weights += out.channels) {
    float middle = arguments.depthwise_bias[k];
    for (int y = 0; y < arguments.kernel; ++y) {
      for (int x = 0; x < arguments.kernel; ++x) {
        const float value = read(arguments.source, pixel.image, pixel.row + (y - reach) * arguments.dilation,
                                 pixel.column + (x - reach) * arguments.dilation, k);
        middle += rectified(value, arguments.relu) * taps[(y * arguments.kernel + x) * channels + k];
      }
    }
    add_product(sums, middle, weights);
  }
  store(out, pixel, pixel.row, pixel.column, channel, sums);
}

__global__ void stem_kernel(const Stem arguments) {
  const Target& out = arguments.out;
  const Pixel pixel = pixel_of_thread(arguments.images, out.rows, out.columns);
  if (!pixel.inside) return;
  const int channel = blockIdx.y * kChannels;
  float sums[kChannels];
  for (int j = 0; j < kChannels; ++j) sums[j] = arguments.bias[channel + j];
  const float* weights = arguments.weights + channel;
  for (int tap = 0; tap < 9; ++tap) {
    const int row = pixel.row + tap / 3 - 1, column = pixel.column + tap % 3 - 1;
    const bool zero = row < 0 || column < 0 || row >= out.rows || column >= out.columns;
    for (int k = 0; k < arguments.channels; ++k, weights += out.channels) {
      if (zero) continue;
      const float value = arguments.x[pixel.image * arguments.strides[0] + k * arguments.strides[1] +
                                      min(row, arguments.rows - 1) * arguments.strides[2] +
                                      min(column, arguments.columns - 1) * arguments.strides[3]];
      add_product(sums, value, weights);
    }
  }
  store(out, pixel, pixel.row, pixel.column, channel, sums);
}

__global__ void output_kernel(int images, const Source h, const Output arguments) {
  const Pixel pixel = pixel_of_thread(images, arguments.rows, arguments.columns);
  if (!pixel.inside) return;
  const auto place = [&](const int64_t* strides, int channel) {
    return pixel.image * strides[0] + channel * strides[1] + pixel.row * strides[2] + pixel.column * strides[3];
  };
  for (int channel = 0; channel < arguments.channels; ++channel) {
    float v = arguments.bias[channel];
    for (int k = 0; k < h.channels; ++k) {
      const float value = rectified(read(h, pixel.image, pixel.row, pixel.column, k), true);
      v += value * arguments.weights[channel * h.channels + k];
    }
    const float x = v + arguments.delta * (arguments.y[place(arguments.y_strides, channel)] - v);
    arguments.x[place(arguments.x_strides, channel)] = x;
    if (!(fabsf(x) <= FLT_MAX)) *arguments.not_finite = 1;
  }
}

dim3 blocks_of(int64_t pixels, int channels, int phases = 1) {
  return dim3(static_cast<unsigned>((pixels + kThreads - 1) / kThreads), channels / kChannels, phases);
}

cudaError_t direct_convolution(const Convolution& arguments, cudaStream_t stream) {
  const int64_t pixels =
      int64_t{arguments.images} * (arguments.out.rows / arguments.scale) * (arguments.out.columns / arguments.scale);
  const dim3 blocks = blocks_of(pixels, arguments.out.channels, arguments.num_phases);
  return launch(convolution_kernel, blocks, dim3(kThreads), stream, arguments);
}

cudaError_t direct_separable(const Separable& arguments, cudaStream_t stream) {
  const int64_t pixels = int64_t{arguments.images} * arguments.out.rows * arguments.out.columns;
  return launch(separable_kernel, blocks_of(pixels, arguments.out.channels), dim3(kThreads), stream, arguments);
}

cudaError_t direct_stem(const Stem& arguments, cudaStream_t stream) {
  const int64_t pixels = int64_t{arguments.images} * arguments.out.rows * arguments.out.columns;
  return launch(stem_kernel, blocks_of(pixels, arguments.out.channels), dim3(kThreads), stream, arguments);
}

cudaError_t direct_output(int images, const Source& h, const Output& arguments, cudaStream_t stream) {
  const int64_t pixels = int64_t{images} * arguments.rows * arguments.columns;
  return launch(output_kernel, blocks_of(pixels, kChannels), dim3(kThreads), stream, images, h, arguments);
}

bool fuses_no_output(int) { return false; }

int64_t matrix_bytes(int rows, int shortcut_rows, int channels) {
  return (int64_t{rows} + shortcut_rows) * channels * static_cast<int64_t>(sizeof(float));
}

void copy_matrix(const float* matrix, int rows, int shortcut_rows, int channels, char* packed) {
  std::memcpy(packed, matrix, static_cast<size_t>(matrix_bytes(rows, shortcut_rows, channels)));
}

}  // namespace

const Kernels float32_kernels = {Element::kFloat32, direct_convolution, direct_separable, direct_stem,
                                 direct_output,     fuses_no_output,    copy_matrix,      matrix_bytes};

}  // namespace modnas_fast::cuda
