// Convolutions as training needs them: [images, rows, columns, channels] without gaps, zero-padded to the same size,
// channels a multiple of 4; weights [kernel, kernel, …, channels out], which change with every call. Images, x, y and
// its gradient, are float32 or bfloat16; weights, their gradients and all arithmetic are float32.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"

namespace modnas_fast {

struct Images {
  int64_t images, rows, columns;
};

// Dense, k = 3 or 5, stride 1: y[p, o] = b[o] + Σ_{t, i} w[t, i, o] · x[p + t − (k − 1)/2, i].
//
// The gradient in x is the same convolution of the gradient in y, its weights turned around and transposed. That in w
// runs through the same transforms: of x by Bᵀ, of the gradient in y by A; their products are summed over all tiles a
// point pair, and Gᵀ makes weights of them. That in b, the sum over all pixels, comes with it.
struct ConvolutionArguments {
  Images size;
  Storage storage;  // of x, y_given and y
  int64_t kernel, channels_in, channels_out;
  const void* x;         // [size, channels_in]
  const void* y_given;   // [size, channels_out]: the gradient in y, for that in w; otherwise unused
  void* y;               // [size, channels_out]; unused for the gradient in w
  const float* bias;     // [channels_out] or null
  const float* weights;  // transformed, see below
  const void* rectified;  // [size, channels_out], r = max(p, 0), or null: y, a gradient in r, becomes that in p
};

// Depthwise, k odd: y[p, c] = Σ_t w[t, c] · x[p + dilation·(t − (k − 1)/2), c].
struct DepthwiseArguments {
  Images size;
  Storage storage;  // of x, y_given and y
  int64_t kernel, dilation, channels;
  const void* x;         // [size, channels]
  const void* y_given;   // [size, channels]: the gradient in y, for that in w; otherwise unused
  void* y;               // [size, channels]; unused for the gradient in w
  const float* weights;  // [kernel², channels]
};

struct TrainingKernels {
  // [k, k, channels_in, channels_out] to (k + 3)² matrices, packed, of channels_in times channels_out up to whole vectors
  // floats; and the adjoint, from such matrices that are not packed.
  void (*transform_weights)(const ConvolutionArguments&, const float* weights, float* transformed);
  void (*transform_weights_gradient)(const ConvolutionArguments&, const float* transformed, float* weights);
  // A run of at most kTrainingTiles tiles: their pixels of y, or their part of the transformed gradient in w and of that
  // in b, [channels_out up to whole vectors], added.
  void (*convolution)(const ConvolutionArguments&, float* scratch, int64_t tile_begin, int64_t tile_end);
  void (*convolution_dweight)(const ConvolutionArguments&, float* scratch, int64_t tile_begin, int64_t tile_end,
                              float* transformed, float* dbias);
  // Rows [begin, end) of all images: their pixels of y, or their part of the gradient in w, [kernel², channels], added.
  void (*depthwise)(const DepthwiseArguments&, int64_t begin, int64_t end);
  void (*depthwise_dweight)(const DepthwiseArguments&, int64_t begin, int64_t end, float* dweight);
};

// Tiles that one call takes at most, and floats of scratch that it needs.
constexpr int64_t kTrainingTiles = 24;
int64_t convolution_scratch(int64_t kernel, int64_t channels_in, int64_t channels_out);

}  // namespace modnas_fast
