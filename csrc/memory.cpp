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

Layout lay_out(const std::vector<Lifetime>& tensors, const std::vector<Tie>& ties) {
  // Tied tensors are one group, each with an offset in it.
  std::vector<size_t> groups(tensors.size());
  std::iota(groups.begin(), groups.end(), 0);
  std::vector<int64_t> inner(tensors.size());
  for (const Tie& tie : ties) {
    const size_t group = groups[tie.tensor], joined = groups[tie.other];
    const int64_t move = inner[tie.other] - tie.distance - inner[tie.tensor];
    for (size_t tensor = 0; tensor < tensors.size(); ++tensor) {
      if (groups[tensor] != group) continue;
      groups[tensor] = joined;
      inner[tensor] += move;
    }
  }
  std::vector<std::vector<size_t>> members(tensors.size());
  for (size_t tensor = 0; tensor < tensors.size(); ++tensor) members[groups[tensor]].push_back(tensor);
  std::vector<int64_t> sizes(tensors.size());
  for (size_t group = 0; group < members.size(); ++group) {
    int64_t first = 0;
    for (size_t tensor : members[group]) first = std::min(first, inner[tensor]);
    for (size_t tensor : members[group]) {
      inner[tensor] -= first;
      sizes[group] = std::max(sizes[group], tensors[tensor].bytes);
    }
  }
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return sizes[a] > sizes[b]; });

  Layout layout;
  layout.offsets.resize(tensors.size());
  std::vector<size_t> placed;
  // The end of a tensor that is alive with one at this offset, and meets it; 0 if there is none.
  const auto obstacle = [&](size_t tensor, int64_t offset) {
    for (size_t other : placed) {
      const bool together = tensors[other].first_step <= tensors[tensor].last_step &&
                            tensors[tensor].first_step <= tensors[other].last_step;
      const int64_t end = layout.offsets[other] + tensors[other].bytes;
      if (together && offset < end && layout.offsets[other] < offset + tensors[tensor].bytes) return end;
    }
    return int64_t{0};
  };
  for (size_t group : order) {
    int64_t offset = 0;
    for (bool moved = true; moved;) {
      moved = false;
      for (size_t tensor : members[group]) {
        const int64_t end = obstacle(tensor, offset + inner[tensor]);
        if (end == 0) continue;
        offset = (end - inner[tensor] + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment;
        moved = true;
      }
    }
    for (size_t tensor : members[group]) {
      layout.offsets[tensor] = offset + inner[tensor];
      layout.bytes = std::max(layout.bytes, layout.offsets[tensor] + tensors[tensor].bytes);
    }
    placed.insert(placed.end(), members[group].begin(), members[group].end());
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
