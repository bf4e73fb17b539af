// Between a caller's planar, strided images and the engine's; and the zeros around tensors.
#pragma once

#include "cpu/kernels.h"
#include "network.h"
#include "plan.h"

namespace modnas_fast {

// The image, its last row and column repeated to `place`'s size, padding channels and halo zero.
void read_image(const ImageView<const float>& from, int64_t channels, int64_t rows, int64_t columns,
                const Placement& place, float* to);

void write_image(const float* from, const Placement& place, int64_t channels, const Window& window,
                 const ImageView<float>& to);

// Zeroes what lies around the tensor's pixels.
void zero_halo(const Placement& place, void* memory);

// Of a rolling tensor, whose bands lie at their offsets in `memory`: gives the band that begins at `row`, just written,
// its halo, of which the rows above are the band's before it, and that one the rows below.
void join_bands(const Placement& tensor, int64_t row, char* memory);

}  // namespace modnas_fast
