// Layers made ready for the CPU: the choice of kernel, weights packed once. Nothing here depends on sizes, except
// which of its weights a Winograd layer has transformed: those that plans have wanted.
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

// A Winograd layer's weights for tiles of so many outputs along an axis.
struct WinogradWeights {
  int64_t outputs, stride;  // stride: floats from one packed matrix to the next
  Floats packed;
};

struct PreparedLayer {
  LayerFacts facts;
  Algorithm algorithm;
  std::vector<Phase> phases;  // kTaps; the shortcut of kWinograd
  Floats weights, bias;       // kSeparable, kOutput; the bias of kWinograd
  Floats depthwise_weights, depthwise_bias;
  std::vector<float> matrix;              // kWinograd: [kernel², rows, columns], not transformed
  std::vector<WinogradWeights> winograd;  // for the tiles that plans have wanted
};

struct PreparedStage {
  std::vector<PreparedLayer> layers;
  std::vector<Tensor> tensors;  // by number
  int lanes;
};

// Raises std::invalid_argument where layers do not fit together.
PreparedStage prepare_stage(const std::vector<Layer>& layers, int64_t image_channels, int lanes);

// Transforms and packs a Winograd layer's weights for tiles of `outputs`, once.
void pack_winograd(PreparedStage& stage, PreparedLayer& layer, int64_t outputs);

}  // namespace modnas_fast
