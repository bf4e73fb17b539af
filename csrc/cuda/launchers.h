// What `select.cpp` makes its tables of: the half-precision kernels, each once an element type. The float32 kernels are
// a table of their own.
#pragma once

#include "cuda/kernels.h"

namespace modnas_fast::cuda {

struct Float16;   // elements.h
struct Bfloat16;

template <typename Type>
cudaError_t launch_convolution(const Convolution& arguments, cudaStream_t stream);
template <typename Type>
cudaError_t launch_separable(const Separable& arguments, cudaStream_t stream);
template <typename Type>
cudaError_t launch_stem(const Stem& arguments, cudaStream_t stream);
template <typename Type>
cudaError_t launch_output(int images, const Source& h, const Output& arguments, cudaStream_t stream);

bool fuses_output(int channels);
template <typename Type>
void pack_fragments(const float* matrix, int rows, int shortcut_rows, int channels, char* packed);
int64_t fragment_bytes(int rows, int shortcut_rows, int channels);

extern const Kernels float32_kernels;  // direct.cu

}  // namespace modnas_fast::cuda
