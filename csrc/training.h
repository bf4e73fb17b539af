// Convolutions and their gradients for networks in training: see cpu/training.h for what they compute.
//
// They run on the caller's OpenMP threads (team.h). Results depend on the number of threads only in the gradients of
// weights, whose sums it splits.
#pragma once

#include "cpu/kernels.h"
#include "cpu/training.h"

namespace modnas_fast {

// y from x; weights [k, k, channels_in, channels_out] in arguments.weights.
void convolution(ConvolutionArguments arguments, const Kernels& kernels, int threads);

// dweight [k, k, channels_in, channels_out] and dbias [channels_out] from x and dy (arguments.y_given).
void convolution_dweight(const ConvolutionArguments& arguments, float* dweight, float* dbias, const Kernels& kernels,
                         int threads);

// y from x; weights [k², channels].
void depthwise(const DepthwiseArguments& arguments, const Kernels& kernels, int threads);

// dweight [k², channels] from x and dy (arguments.y_given).
void depthwise_dweight(const DepthwiseArguments& arguments, float* dweight, const Kernels& kernels, int threads);

}  // namespace modnas_fast
