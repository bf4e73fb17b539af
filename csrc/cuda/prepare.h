// Layers made ready for CUDA: merged into launches, weights packed for one upload. Nothing here depends on sizes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/kernels.h"
#include "rewrite.h"

namespace modnas_fast::cuda {

enum class StepKind { kStem, kConvolution, kSeparable, kOutput };

struct Operand {
  int tensor = -1;  // −1: there is none
  Interpolation interpolation = Interpolation::kNone;
};

// The stage's end, as a part of the step that makes its input or alone. Weights and biases are offsets in bytes into
// the network's weights, here and below.
struct StageEnd {
  int64_t weights, bias;
  float delta;
};

struct StepPhase {
  Phase phase;  // its `weights` is null
  int64_t weights;
};

// One launch.
struct Step {
  std::string name;
  StepKind kind;
  Operand sources[2], shortcut;  // kStem reads the image
  int output;                    // tensor
  bool written;                  // or only the stage's end reads it
  bool relu_in, relu_out;
  int stride, scale, kernel, dilation;
  std::vector<StepPhase> phases;
  int64_t weights, bias;
  int64_t depthwise_weights, depthwise_bias;
  bool ends;
  StageEnd end;
  int64_t weight_bytes;
  int64_t macs_a_pixel;  // of the output
};

struct PreparedStage {
  std::vector<Step> steps;
  std::vector<Tensor> tensors;  // by number
};

struct PreparedNetwork {
  std::vector<PreparedStage> stages;
  std::vector<char> weights;
};

// ×2 interpolations become part of their readers, and the stage's end of the step before it where that is possible.
// Raises std::invalid_argument where layers do not fit together, or where the kernels do not have them.
PreparedNetwork prepare_network(const std::vector<std::vector<Layer>>& stages, int64_t image_channels,
                                const Kernels& kernels);

}  // namespace modnas_fast::cuda
