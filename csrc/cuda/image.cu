#include "cuda/image.h"

#include "cuda/launch.h"

namespace modnas_fast::cuda {

namespace {

constexpr int kThreads = 256;

__global__ void copy_kernel(const Image from, const Image to) {
  int64_t rest = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (rest >= to.images * to.channels * to.rows * to.columns) return;
  const int64_t column = rest % to.columns;
  rest /= to.columns;
  const int64_t row = rest % to.rows;
  rest /= to.rows;
  const int64_t channel = rest % to.channels, image = rest / to.channels;
  const int64_t row_from = row < from.rows ? row : from.rows - 1;
  const int64_t column_from = column < from.columns ? column : from.columns - 1;
  to.data[image * to.strides[0] + channel * to.strides[1] + row * to.strides[2] + column * to.strides[3]] =
      from.data[image * from.strides[0] + channel * from.strides[1] + row_from * from.strides[2] +
                column_from * from.strides[3]];
}

}  // namespace

cudaError_t copy_image(const Image& from, const Image& to, cudaStream_t stream) {
  const int64_t values = to.images * to.channels * to.rows * to.columns;
  return launch(copy_kernel, dim3(static_cast<unsigned>((values + kThreads - 1) / kThreads)), dim3(kThreads), stream,
                from, to);
}

}  // namespace modnas_fast::cuda
