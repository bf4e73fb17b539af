// Launches with random operands, and whether their results are right.
#pragma once

#include <vector>

#include "tensors.h"

namespace modnas_fast::cuda {

enum class Taps { kSquare, kTransposed, kSubPixel, kDilated };

struct ConvolutionProblem {
  int images = 1, rows = 13, columns = 19;  // of the output, before phases double them
  Taps taps = Taps::kSquare;
  int kernel = 3, stride = 1;
  int channels[2] = {16, 0};
  Interpolation interpolations[2] = {Interpolation::kNone, Interpolation::kNone};
  int out_channels = 16;
  bool relu = true, relu_out = true;
  int shortcut_channels = 0;
  int image_channels = 0;  // of the stage's end, if any
  bool keep = true;        // the output is stored even if it ends the stage
  int processors = 0;      // of the emulated device, where that matters
};

struct SeparableProblem {
  int images = 1, rows = 13, columns = 19, kernel = 3, dilation = 1, channels = 16, out_channels = 16;
  bool relu = true, relu_out = false;
  int image_channels = 0;
};

bool run(const Kernels& kernels, const ConvolutionProblem& problem);
bool run(const Kernels& kernels, const SeparableProblem& problem);
bool run_stem(const Kernels& kernels, int image_channels, int side);
bool run_output(const Kernels& kernels, int image_channels, int side);

// Problems of every kind; what is left over from them is random.
std::vector<ConvolutionProblem> convolution_problems(bool fewer);
std::vector<SeparableProblem> separable_problems(bool fewer);

// Whether the launches noted so far used every shape of block, and every number of columns of a warp.
void note_shape(const Convolution& arguments);
bool every_shape_was_used();

}  // namespace modnas_fast::cuda
