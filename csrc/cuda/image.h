// Images between callers and the network, and between tiles: float32 [images, channels, rows, columns], strided.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace modnas_fast::cuda {

struct Image {
  float* data;  // on the device
  int64_t images, channels, rows, columns;
  int64_t strides[4];  // floats
};

// Copies the image, continued to the target's size by its last row and column. Asynchronous.
cudaError_t copy_image(const Image& from, const Image& to, cudaStream_t stream);

}  // namespace modnas_fast::cuda
