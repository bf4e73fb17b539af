#include "memory.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <numeric>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace modnas_fast {

namespace {
constexpr int64_t kHugePage = int64_t{2} << 20;
}

Layout lay_out(const std::vector<Lifetime>& tensors) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return tensors[a].bytes > tensors[b].bytes; });
  Layout layout;
  layout.offsets.resize(tensors.size());
  std::vector<size_t> placed;
  for (size_t tensor : order) {
    std::vector<std::pair<int64_t, int64_t>> taken;  // [begin, end) of tensors alive with this one
    for (size_t other : placed) {
      if (tensors[other].first_step <= tensors[tensor].last_step &&
          tensors[tensor].first_step <= tensors[other].last_step) {
        taken.emplace_back(layout.offsets[other], layout.offsets[other] + tensors[other].bytes);
      }
    }
    std::sort(taken.begin(), taken.end());
    int64_t offset = 0;
    for (const auto& [begin, end] : taken) {
      if (begin - offset >= tensors[tensor].bytes) break;
      offset = std::max(offset, (end + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment);
    }
    layout.offsets[tensor] = offset;
    layout.bytes = std::max(layout.bytes, offset + tensors[tensor].bytes);
    placed.push_back(tensor);
  }
  return layout;
}

Arena::~Arena() { release(); }

void Arena::reserve(int64_t bytes) {
  if (bytes <= bytes_) return;
  release();
  // Six rows of a tensor and 36 planes of scratch are read at a time: with small pages, address translation stalls.
  const int64_t alignment = bytes < kHugePage ? kAlignment : kHugePage;
  const int64_t size = (bytes + alignment - 1) / alignment * alignment;
  data_ = std::aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(size));
  if (data_ == nullptr) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == kHugePage) madvise(data_, static_cast<size_t>(size), MADV_HUGEPAGE);  // a wish: failing is no harm
#endif
  bytes_ = size;
}

void Arena::release() {
  std::free(data_);
  data_ = nullptr;
  bytes_ = 0;
}

}  // namespace modnas_fast
