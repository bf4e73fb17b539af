// What a kernel does, and where its operands are. Pointers, sizes and strides only: all checks happen above.
//
// Activations are [rows, columns, channels] in float32 or bfloat16, with a zeroed halo around them; a pointer is to
// pixel (0, 0), and strides count elements. Channels are padded to a multiple of 8 (images to a multiple of 2), and the
// padding holds zeros. Kernels compute in float32 whatever is stored. They may read, but never use, up to 16 elements
// beyond a pixel's channels.
#pragma once

#include <cstdint>

namespace modnas_fast {

enum class Storage { kFloat32, kBfloat16 };

constexpr int64_t element_bytes(Storage storage) { return storage == Storage::kFloat32 ? 4 : 2; }

struct Source {
  const void* data;  // [rows, columns, channels]
  Storage storage;
  int64_t row_stride;
  int64_t pixel_stride;  // elements from one output pixel's operand to the next one's: a convolution's stride is in it
  int64_t channels;
  bool relu;  // max(0, ·) as it is read
};

struct Target {
  void* data;  // [rows, columns, channels]
  Storage storage;
  int64_t row_stride;
  int64_t pixel_stride;
  int64_t rows;
  int64_t columns;
  int64_t channels;
  bool relu;  // max(0, ·) as it is written
};

struct Window {  // of output pixels
  int64_t row_begin, row_end, column_begin, column_end;
};

// A sum of matrix products, one a tap: out[p] = bias + Σ_t relu?(tap_t[p]) · weight_t. With one tap for every kernel
// element it is a direct convolution of any stride; with taps of several tensors, one of their concatenation; with a
// 1×1 tap of a second tensor, a residual block's shortcut.
struct TapsArguments {
  const Source* taps;    // [num_taps], at most kMostTaps
  int64_t num_taps;
  const float* weights;  // [Σ taps' channels, channels], packed by pack_matrix
  const float* bias;     // [channels], packed by pack_bias
  Target out;
};

// A stride-1 convolution by Winograd's minimal filtering on 6×6 tiles: F(4×4, 3×3) or F(2×2, 5×5).
struct WinogradArguments {
  const Source* sources;  // [num_sources], concatenated along channels
  int64_t num_sources;
  int64_t kernel;            // 3 or 5
  const float* weights;      // [36, Σ sources' channels, channels], each matrix packed by pack_matrix
  int64_t weight_stride;     // floats from one packed matrix to the next
  const float* bias;         // [channels], packed by pack_bias; unused with a shortcut, which brings it
  const TapsArguments* shortcut;  // of one tap; added, or null
  Target out;
};

// k×k depthwise convolution, then 1×1: the first one's result never leaves the L1 cache.
struct SeparableArguments {
  Source source;
  int64_t kernel, dilation;
  const float* depthwise_weights;  // [kernel², source.channels]
  const float* depthwise_bias;     // [source.channels]
  const float* weights;            // [source.channels, out.channels], packed by pack_matrix
  const float* bias;               // packed by pack_bias
  Target out;
};

// ×2 interpolation, bilinear (align_corners=False, borders clamped) or nearest.
struct UpsampleArguments {
  Source source;  // [rows/2, columns/2, channels]
  bool bilinear;
  Target out;
};

// The stage's end: v = bias + relu(h) · weight; x = v + δ·(y − v).
struct OutputArguments {
  Source source;         // h
  const float* weights;  // [image_channels, source.channels]
  const float* bias;     // [image_channels]
  float delta;
  int64_t image_channels;
  const float* noisy;  // y, of out's layout; images are float32
  Target out;
};

struct TrainingKernels;

struct Kernels {
  const char* name;
  int lanes;  // floats in a vector; packed weights depend on it
  void (*taps)(const TapsArguments&, float* scratch, const Window&);
  void (*winograd)(const WinogradArguments&, float* scratch, int64_t tile_begin, int64_t tile_end);
  void (*separable)(const SeparableArguments&, float* scratch, const Window&);
  void (*upsample)(const UpsampleArguments&, const Window&);
  void (*output)(const OutputArguments&, const Window&);
  const TrainingKernels* training;
};

// Tiles that one call of `winograd` takes at most, and floats of scratch that a thread needs for its widest layer.
constexpr int64_t kWinogradTiles = 32;
constexpr int64_t kWinogradShared = 8;  // neighbours that share column transforms: few enough for the L1 cache
constexpr int64_t kSeparablePixels = 48;
constexpr int64_t kTapsPixels = 24;
constexpr int64_t kMostTaps = 16;
int64_t winograd_scratch(int64_t channels_in, int64_t channels_out, int64_t shortcut_channels);
int64_t separable_scratch(int64_t channels_in, int64_t channels_out);
// Floats from one pixel's or tile's channels to the next one's in the scratch: whole cache lines, so that a last vector
// may spill over its channels.
constexpr int64_t taps_span(int64_t pixel_stride, int64_t channels) {
  return (kTapsPixels * pixel_stride + channels + 31) / 16 * 16;
}
constexpr int64_t scratch_stride(int64_t channels) { return (channels + 15) / 16 * 16; }
constexpr int64_t winograd_stride(int64_t channels) { return (channels + 8 + 15) / 16 * 16; }  // 8: of two sources

// The fastest kernels of this processor for such tensors, or those called `name`; null where it cannot run them.
const Kernels* select_kernels(const char* name = nullptr, Storage storage = Storage::kFloat32);
// The same, where "" stands for no name; std::invalid_argument where this processor cannot run them.
const Kernels& require_kernels(const char* name, Storage storage = Storage::kFloat32);

namespace avx512_bf16 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace portable {
extern const Kernels kernels;
}

}  // namespace modnas_fast
