// What a network is made of, as the engine is told: layers in the order in which they run, one list a stage.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace modnas_fast {

enum class Op {
  kConvolution,  // k×k, stride 1 or 2, of one tensor or two concatenated ones; maybe with a 1×1 shortcut of another
  kSeparable,    // k×k depthwise with dilation, then 1×1
  kTransposed,   // 3×3 transposed convolution, stride 2, output padding 1
  kSubPixel,     // 3×3 convolution to 4·channels, then pixel shuffle ×2
  kBilinear,     // ×2 interpolation
  kNearest,      // ×2 repetition
  kOutput,       // ReLU → 1×1 to the image's channels, then δ·y + (1 − δ)·that
};

// Tensors are numbers: 0 is the stage's input image, every layer makes another, and its inputs are made before it.
struct Layer {
  std::string name;
  Op op = Op::kConvolution;
  std::vector<int> inputs;
  int output = 0;
  int64_t channels = 0;  // of the output
  int kernel = 1;
  int stride = 1;
  int dilation = 1;
  bool relu = false;  // of the inputs, as they are read; not of the shortcut
  int shortcut = -1;  // the tensor that the 1×1 shortcut reads, or −1
  float delta = 0;    // kOutput: the relaxation, in 0…1

  // Row-major, as PyTorch has them. Only weights of the op's parts are set.
  std::vector<float> weight;            // [out, in, k, k]; kTransposed: [in, out, 3, 3]; kSeparable: the 1×1
  std::vector<float> bias;              // [out]
  std::vector<float> depthwise_weight;  // [in, 1, k, k]
  std::vector<float> depthwise_bias;    // [in]
  std::vector<float> shortcut_weight;   // [out, shortcut's channels, 1, 1]
  std::vector<float> shortcut_bias;     // [out]
};

}  // namespace modnas_fast
