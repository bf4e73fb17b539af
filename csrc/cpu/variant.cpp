// The table of one variant. This folder's kernel files are compiled once a variant, each time with other flags and
// another MODNAS_FAST_ISA.
#include "cpu/variant.h"

#include "cpu/vector.h"

#define MODNAS_FAST_TEXT(name) #name
#define MODNAS_FAST_NAME(name) MODNAS_FAST_TEXT(name)

namespace modnas_fast {
namespace MODNAS_FAST_ISA {

const TrainingKernels training_kernels = {transform_weights,   transform_weights_gradient, convolution,
                                          convolution_dweight, depthwise,                  depthwise_dweight};

const Kernels kernels = {MODNAS_FAST_NAME(MODNAS_FAST_ISA), kLanes, taps,  winograd, separable,
                         upsample, output, &training_kernels};

}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
