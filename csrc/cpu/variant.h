// The kernels of one variant; each file of this folder that variant.cpp names defines one of them.
#pragma once

#include "cpu/kernels.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {

void taps(const TapsArguments& arguments, float* scratch, const Window& window);
void winograd(const WinogradArguments& arguments, float* scratch, int64_t tile_begin, int64_t tile_end);
void separable(const SeparableArguments& arguments, float* scratch, const Window& window);
void upsample(const UpsampleArguments& arguments, const Window& window);
void output(const OutputArguments& arguments, const Window& window);

}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
