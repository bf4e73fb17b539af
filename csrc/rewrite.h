// Exact rewrites: every layer as sums of matrix products in plain float32, whatever hardware runs them. What packs the
// matrices, for the CPU or for CUDA, starts from here. Nothing depends on sizes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "layer.h"

namespace modnas_fast {

struct Tensor {
  int64_t channels;         // as the network has them
  int64_t padded_channels;  // as they lie in memory: a multiple of 8, of images of 2
  int shift;                // log2 of how much smaller than the image its sides are
};

// What a layer is and does, weights aside.
struct LayerFacts {
  std::string name;
  Op op;
  std::vector<int> inputs;
  int output;
  int shortcut;
  int kernel, dilation;
  bool relu_in;              // of the inputs, where they are not rectified already
  bool relu_out;             // all who read the output want it rectified
  int64_t input_scale = 1;   // input pixels from one output pixel to the next
  int64_t output_scale = 1;  // phases along each axis
  float delta;
  int64_t macs_a_pixel;  // of the output; of its padded channels none
};

struct TapOffset {
  int64_t dy, dx;
};

// The output pixels (scale·i + row, scale·j + column), each from the same taps of the inputs. Matrices are row-major
// and have a column for each of the output's padded channels.
struct PlainPhase {
  int64_t row, column;
  std::vector<TapOffset> taps;  // by dy, then by dx
  std::vector<float> matrix;    // [taps, Σ inputs' padded channels, columns]
  std::vector<float> bias;      // [channels]
};

struct PlainLayer {
  LayerFacts facts;
  std::vector<PlainPhase> phases;      // of convolutions of all kinds
  std::vector<float> shortcut_matrix;  // [shortcut's padded channels, columns]
  std::vector<float> shortcut_bias;    // [channels]
  std::vector<float> matrix, bias;     // kSeparable: [padded channels in, columns]; kOutput: its transpose
  std::vector<float> depthwise_weights;  // [kernel², padded channels in]
  std::vector<float> depthwise_bias;     // [padded channels in]
};

struct PlainStage {
  std::vector<PlainLayer> layers;
  std::vector<Tensor> tensors;  // by number
};

// Raises std::invalid_argument where layers do not fit together.
PlainStage rewrite_stage(const std::vector<Layer>& layers, int64_t image_channels);

// The bias of a phase with the shortcut's added, [columns] with zeros beyond the channels.
std::vector<float> whole_bias(const PlainLayer& layer, const PlainPhase& phase, int64_t columns);

}  // namespace modnas_fast
