// What a CUDA kernel does, and where its operands are. Pointers and sizes only: all checks happen above.
//
// Activations are [images, rows, columns, channels], dense, of one element type, without halo: beyond an image's border
// kernels read zeros. Channels are padded to a multiple of 8, and the padding holds zeros; pointers to activations and
// weights are aligned to 16 bytes. Products are summed in float32. A launch's output overlaps nothing that it reads.
// The arguments of a launch are copied: nothing of them need outlive the call.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace modnas_fast::cuda {

enum class Element { kFloat32, kFloat16, kBfloat16 };

constexpr int64_t element_bytes(Element element) { return element == Element::kFloat32 ? 4 : 2; }

// ×2 and as it is read; bilinear as align_corners=False, borders clamped, rounded to the element type.
enum class Interpolation { kNone, kNearest, kBilinear };

struct Source {
  const void* data;  // [images, rows, columns, channels]; null: there is none
  int rows, columns, channels;  // as they lie in memory
  Interpolation interpolation;
};

struct Target {
  void* data;  // [images, rows, columns, channels]; null: only `Output` reads the result
  int rows, columns, channels;
  bool relu;  // max(0, ·) as it is written
};

struct Tap {
  int8_t dy, dx;
};

constexpr int kMostTaps = 25;

// The stage's end, computed where its input is made: x = v + δ·(y − v), v = bias + relu(h) · weights. x and y are
// float32 [images, channels, rows, columns] with strides in floats; only the first `rows` × `columns` pixels are
// written. Where x is not finite, *not_finite becomes 1.
struct Output {
  const float* weights;  // [channels, h's channels]; null: there is none
  const float* bias;     // [channels]
  float delta;
  int channels, rows, columns;
  const float* y;
  int64_t y_strides[4];
  float* x;
  int64_t x_strides[4];
  int* not_finite;
};

// Output pixel (scale·i + row, scale·j + column):
// bias + Σ_tap Σ_source relu?(source[stride·i + dy, stride·j + dx]) · W.
struct Phase {
  int row, column;
  int num_taps;
  Tap taps[kMostTaps];
  // [taps, Σ sources' channels, channels], then [shortcut's channels, channels]: as pack() made it
  const void* weights;
};

// Every k×k convolution of stride 1 or 2 (one phase), transposed and sub-pixel convolution (four phases, scale 2).
struct Convolution {
  int images;
  Source sources[2];  // side by side along channels
  bool relu;          // of the sources, as they are read
  int stride, scale;
  int num_phases;
  Phase phases[4];
  const float* bias;  // [phases, channels], the shortcut's included
  Source shortcut;    // its 1×1 convolution is added; read at the output's pixels, never rectified
  Target out;
  Output output;
};

// k×k depthwise convolution, then 1×1; the first one's result stays on the chip.
struct Separable {
  int images;
  Source source;
  bool relu;
  int kernel, dilation;
  const void* depthwise_weights;  // [kernel², channels] in the element type
  const float* depthwise_bias;    // [channels]
  const void* weights;            // [channels, out.channels]: as pack() made it
  const float* bias;              // [out.channels]
  Target out;
  Output output;
};

// 3×3 convolution of an image, float32 [images, channels, rows, columns] with strides in floats, continued to the
// target's size by its last row and column; zeros beyond that.
struct Stem {
  int images;
  const float* x;
  int64_t strides[4];
  int channels, rows, columns;
  const float* weights;  // [3, 3, channels, out.channels]
  const float* bias;     // [out.channels]
  Target out;
};

// Launches; the same interface for every element type. All are asynchronous, may be captured in a graph, and return
// what the launch returned.
struct Kernels {
  Element element;
  cudaError_t (*convolution)(const Convolution&, cudaStream_t);
  cudaError_t (*separable)(const Separable&, cudaStream_t);
  cudaError_t (*stem)(const Stem&, cudaStream_t);
  cudaError_t (*output)(int images, const Source& h, const Output&, cudaStream_t);
  // Whether an `Output` can be part of the launch that makes its input of so many channels.
  bool (*fuses_output)(int channels);
  // Weights on the host, in the order in which these kernels read them: from the float32 matrix [rows + shortcut_rows,
  // channels], whose rows are those of Phase or Separable. The bytes are copied to the device as they are.
  void (*pack)(const float* matrix, int rows, int shortcut_rows, int channels, char* packed);
  int64_t (*packed_bytes)(int rows, int shortcut_rows, int channels);
};

// Tensor cores for float16 (from sm_75) and bfloat16 (from sm_80), plain float32 sums for float32; null where a device
// of compute capability `capability` (80 for 8.0) cannot run them.
const Kernels* select_kernels(Element element, int capability);

}  // namespace modnas_fast::cuda
