// Layers made ready for the CPU: the choice of kernel, weights packed once. Nothing here depends on sizes.
#pragma once

#include <cstdint>
#include <new>
#include <vector>

#include "rewrite.h"

namespace modnas_fast {

template <typename T>
struct CacheLineAllocator {
  using value_type = T;
  CacheLineAllocator() = default;
  template <typename U>
  CacheLineAllocator(const CacheLineAllocator<U>&) {}
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64))); }
  void deallocate(T* data, size_t) { ::operator delete(data, std::align_val_t(64)); }
  template <typename U>
  bool operator==(const CacheLineAllocator<U>&) const { return true; }
  template <typename U>
  bool operator!=(const CacheLineAllocator<U>&) const { return false; }
};

using Floats = std::vector<float, CacheLineAllocator<float>>;

enum class Algorithm { kTaps, kWinograd, kSeparable, kUpsample, kOutput };

// Where a tap lies in its tensor: `width` neighbouring pixels, which are contiguous, from (dy, dx) on.
struct TapPlace {
  int tensor;
  int64_t dy, dx, width;
  bool relu;
};

// One pass of the taps kernel over the output pixels (scale·i + row, scale·j + column).
struct Phase {
  std::vector<TapPlace> taps;
  int64_t row = 0, column = 0;
  Floats weights, bias;
};

struct PreparedLayer {
  LayerFacts facts;
  Algorithm algorithm;
  std::vector<Phase> phases;  // kTaps; the shortcut of kWinograd
  Floats weights, bias;       // kWinograd, kSeparable, kOutput
  int64_t weight_stride = 0;  // kWinograd
  Floats depthwise_weights, depthwise_bias;
};

struct PreparedStage {
  std::vector<PreparedLayer> layers;
  std::vector<Tensor> tensors;  // by number
};

// Raises std::invalid_argument where layers do not fit together.
PreparedStage prepare_stage(const std::vector<Layer>& layers, int64_t image_channels, int lanes);

}  // namespace modnas_fast
