#include "cuda/launchers.h"

namespace modnas_fast::cuda {

namespace {

template <typename Type>
constexpr Kernels tensor_core_kernels(Element element) {
  return {element,      launch_convolution<Type>, launch_separable<Type>, launch_stem<Type>, launch_output<Type>,
          fuses_output, pack_fragments<Type>,     fragment_bytes};
}

constexpr Kernels kFloat16Kernels = tensor_core_kernels<Float16>(Element::kFloat16);
constexpr Kernels kBfloat16Kernels = tensor_core_kernels<Bfloat16>(Element::kBfloat16);

}  // namespace

const Kernels* select_kernels(Element element, int capability) {
  if (capability < (element == Element::kBfloat16 ? 80 : 75)) return nullptr;
  switch (element) {
    case Element::kFloat16: return &kFloat16Kernels;
    case Element::kBfloat16: return &kBfloat16Kernels;
    case Element::kFloat32: return &float32_kernels;
  }
  return nullptr;
}

}  // namespace modnas_fast::cuda
