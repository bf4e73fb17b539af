// The kernels of one variant; each file of this folder that variant.cpp names defines one of them.
#pragma once

#include "cpu/kernels.h"
#include "cpu/training.h"

namespace modnas_fast {

namespace MODNAS_FAST_ISA {

void taps(const TapsArguments& arguments, float* scratch, const Window& window);
void winograd(const WinogradArguments& arguments, float* scratch, int64_t tile_begin, int64_t tile_end);
void separable(const SeparableArguments& arguments, float* scratch, const Window& window);
void upsample(const UpsampleArguments& arguments, const Window& window);
void output(const OutputArguments& arguments, const Window& window);

void transform_weights(const ConvolutionArguments& arguments, const float* weights, float* transformed);
void transform_weights_gradient(const ConvolutionArguments& arguments, const float* transformed, float* weights);
void convolution(const ConvolutionArguments& arguments, float* scratch, int64_t tile_begin, int64_t tile_end);
void convolution_dweight(const ConvolutionArguments& arguments, float* scratch, int64_t tile_begin, int64_t tile_end,
                         float* transformed, float* dbias);
void depthwise(const DepthwiseArguments& arguments, int64_t begin, int64_t end);
void depthwise_dweight(const DepthwiseArguments& arguments, int64_t begin, int64_t end, float* dweight);

}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
