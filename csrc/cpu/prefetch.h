// Cache lines asked for while there are products to compute, so that nobody waits for them later.
#pragma once

#include <cstdint>

#include "cpu/vector.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

// A few rectangles of memory, touched a few lines at a time. Addresses may lie anywhere: prefetching never faults.
class Prefetcher {
 public:
  // `rows` rows of `floats` each.
  void add(const float* data, int64_t row_stride, int64_t floats, int64_t rows, bool write) {
    if (count_ == kMost || floats <= 0 || rows <= 0) return;
    const int64_t lines = floats / kLineFloats + 1;
    areas_[count_++] = {data, row_stride, lines, rows, write};
    lines_ += lines * rows;
  }

  // All lines are asked for in `steps` calls of `step`.
  void spread(int64_t steps) { lines_a_step_ = steps > 0 ? (lines_ + steps - 1) / steps : 0; }

  MODNAS_FAST_INLINE void step() {
    for (int64_t left = lines_a_step_; left > 0 && area_ < count_; --left) {
      Area& area = areas_[area_];
      const float* const line = area.data + line_ * kLineFloats;
      if (area.write) {
        __builtin_prefetch(line, 1, 3);
      } else {
        __builtin_prefetch(line, 0, 2);  // to the L2 cache: the L1 cache is the matrix product's
      }
      if (++line_ < area.lines) continue;
      line_ = 0;
      area.data += area.row_stride;
      if (--area.rows == 0) ++area_;
    }
  }

 private:
  static constexpr int kMost = 8;
  static constexpr int64_t kLineFloats = 16;
  struct Area {
    const float* data;
    int64_t row_stride, lines, rows;
    bool write;
  };
  Area areas_[kMost];
  int count_ = 0, area_ = 0;
  int64_t line_ = 0, lines_ = 0, lines_a_step_ = 0;
};

}  // namespace
}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
