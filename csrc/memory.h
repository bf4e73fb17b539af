// Where activations lie: one arena, shared by tensors that are never alive at once.
#pragma once

#include <cstdint>
#include <vector>

namespace modnas_fast {

struct Lifetime {
  int64_t bytes;
  int first_step, last_step;  // both included
};

// `tensor` lies `distance` bytes, a multiple of kAlignment, before `other`, and the two may overlap.
struct Tie {
  int tensor, other;
  int64_t distance;
};

struct Layout {
  std::vector<int64_t> offsets;  // [tensors], multiples of kAlignment
  int64_t bytes = 0;
};

// Every tensor at the lowest offset at which it meets no tensor alive with it, largest tensors first; tied ones, of which
// `other` is the older, together.
Layout lay_out(const std::vector<Lifetime>& tensors, const std::vector<Tie>& ties = {});

// Bytes on a cache-line boundary that only grow; contents are lost when they do.
class Arena {
 public:
  static constexpr int64_t kAlignment = 64;

  Arena() = default;
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Raises std::bad_alloc.
  void reserve(int64_t bytes);
  void release();
  int64_t bytes() const { return bytes_; }
  char* data() const { return static_cast<char*>(data_); }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace modnas_fast
