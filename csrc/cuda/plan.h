// Where every tensor of a stage lies for one batch and image size.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/prepare.h"

namespace modnas_fast::cuda {

struct Size {
  int64_t images, rows, columns;  // as callers have them
  bool operator==(const Size& other) const {
    return images == other.images && rows == other.rows && columns == other.columns;
  }
};

struct Plan {
  Size padded;                   // to multiples of 8
  std::vector<int64_t> offsets;  // of tensors, in bytes from the arena's start; −1: it is in no memory
  int64_t image_offset;          // an image between stages, float32 [images, channels, rows, columns]
  int64_t noisy_offset;          // y continued to `padded`, for several stages; −1: it is not needed
  int64_t bytes;                 // of the arena
};

Plan make_plan(const PreparedStage& stage, Element element, size_t num_stages, const Size& size);

// Bytes of a tensor that one step writes and others read.
int64_t tensor_bytes(const Tensor& tensor, Element element, const Size& padded);

}  // namespace modnas_fast::cuda
