// What a caller may ask for; everything behind it may rely on it.
#pragma once

#include <cstdint>
#include <vector>

#include "layer.h"

namespace modnas_fast {

// Raises std::invalid_argument unless the kernels can run these stages: known sizes, the same layers in every stage.
// The shapes of weights, and which tensors a layer may read, are checked where they are used, in prepare_stage.
void check_network(int64_t image_channels, const std::vector<std::vector<Layer>>& stages, int threads);

// Raises std::invalid_argument unless an image has at least a pixel, and so few that 64 bits count its bytes.
void check_size(int64_t rows, int64_t columns);

}  // namespace modnas_fast
