#include "tensors.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace modnas_fast::cuda {

DeviceMemory::DeviceMemory(size_t bytes) : bytes_(bytes) {
  const size_t page = sysconf(_SC_PAGESIZE), usable = (bytes + page - 1) / page * page;
  mapped_ = usable + 2 * page;
  mapping_ = static_cast<char*>(mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (mapping_ == MAP_FAILED || mprotect(mapping_ + page, usable, PROT_READ | PROT_WRITE) != 0) std::abort();
  data_ = mapping_ + page + usable - bytes;
  std::memset(data_, 0xFF, bytes);
}
DeviceMemory::~DeviceMemory() { munmap(mapping_, mapped_); }

LaunchBefore::LaunchBefore(std::vector<Bytes> made, std::vector<Bytes> results)
    : made_(std::move(made)), results_(std::move(results)) {
  for (const Bytes& bytes : made_) {
    char* const begin = static_cast<char*>(bytes.data);
    kept_.emplace_back(begin, begin + bytes.count);
    std::memset(begin, 0xFF, bytes.count);
  }
  emulation::launch_before = [this] {
    for (size_t i = 0; i < made_.size(); ++i) {
      std::copy(kept_[i].begin(), kept_[i].end(), static_cast<char*>(made_[i].data));
    }
    for (const Bytes& bytes : results_) {
      const char* const begin = static_cast<const char*>(bytes.data);
      untouched_ &= std::all_of(begin, begin + bytes.count, [](char byte) { return byte == '\xFF'; });
    }
  };
}

LaunchBefore::~LaunchBefore() { emulation::launch_before = nullptr; }

bool LaunchBefore::was_waited_for() const {
  if (emulation::launch_before) std::puts("FAILED: a launch ended without waiting for the one before");
  if (!untouched_) std::puts("FAILED: a launch wrote before the one before had ended");
  return !emulation::launch_before && untouched_;
}

double load(Element element, const void* data, int64_t index) {
  if (element == Element::kFloat32) return static_cast<const float*>(data)[index];
  if (element == Element::kFloat16) return __half2float(static_cast<const __half*>(data)[index]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[index]);
}

void store(Element element, void* data, int64_t index, double value) {
  const float single = static_cast<float>(value);
  if (element == Element::kFloat32) static_cast<float*>(data)[index] = single;
  if (element == Element::kFloat16) static_cast<__half*>(data)[index] = __float2half_rn(single);
  if (element == Element::kBfloat16) static_cast<__nv_bfloat16*>(data)[index] = __float2bfloat16_rn(single);
}

double rounded(Element element, double value) {
  float place;
  store(element, &place, 0, value);
  return load(element, &place, 0);
}

double relative_error(Element element) {
  return element == Element::kFloat32 ? kFloatError : element == Element::kFloat16 ? 0x1p-11 : 0x1p-8;
}
double absolute_error(Element element) { return element == Element::kFloat16 ? 0x1p-25 : 0x1p-134; }

std::mt19937 random_bits(1);
int random_below(int end) { return static_cast<int>(random_bits() % static_cast<unsigned>(end)); }
double random_normal() { return std::normal_distribution<double>()(random_bits); }

Map::Map(int images, int rows, int columns, int channels)
    : images(images), rows(rows), columns(columns), channels(channels),
      values(int64_t{images} * rows * columns * channels) {}

Map random_map(Element element, int images, int rows, int columns, int channels) {
  Map map(images, rows, columns, channels);
  for (double& value : map.values) value = rounded(element, random_normal());
  return map;
}

SourceTensor::SourceTensor(Element element, Map values, Interpolation interpolation)
    : map(std::move(values)), interpolation(interpolation), memory(map.values.size() * element_bytes(element)) {
  for (size_t i = 0; i < map.values.size(); ++i) store(element, memory.data(), i, map.values[i]);
}

double SourceTensor::get(int image, int row, int column, int channel, bool relu) const {
  const int scale = interpolation == Interpolation::kNone ? 1 : 2;
  if (row < 0 || column < 0 || row >= scale * map.rows || column >= scale * map.columns) return 0;
  double value = map.at(image, row / scale, column / scale, channel);
  if (interpolation == Interpolation::kBilinear) {
    const double y = std::clamp((row + 0.5) / 2 - 0.5, 0.0, map.rows - 1.0);
    const double x = std::clamp((column + 0.5) / 2 - 0.5, 0.0, map.columns - 1.0);
    const int top = static_cast<int>(y), left = static_cast<int>(x);
    const int bottom = std::min(top + 1, map.rows - 1), right = std::min(left + 1, map.columns - 1);
    const auto across = [&](int at) {
      return map.at(image, at, left, channel) + (x - left) * (map.at(image, at, right, channel) -
                                                             map.at(image, at, left, channel));
    };
    value = across(top) + (y - top) * (across(bottom) - across(top));
  }
  return relu ? std::max(0.0, value) : value;
}

double SourceTensor::error(Element element, double value) const {
  if (interpolation != Interpolation::kBilinear) return 0;
  return relative_error(element) * std::abs(value) + absolute_error(element) + 32 * kFloatError;
}

void Answer::add(double factor, double weight, double factor_error) {
  value += factor * weight;
  magnitude += std::abs(factor * weight);
  inherited += factor_error * std::abs(weight);
  ++terms;
}

std::map<std::string, Parity> parity;

void Judge::value(double got, double expected, double bound) {
  ++values_;
  if (std::abs(expected) > bound) ++telling_;
  const double error = std::abs(got - expected);
  error_ = std::max(error_, error);
  largest_ = std::max(largest_, std::abs(expected));
  if (error > 0) share_ = std::max(share_, error / bound);
  if (error <= bound) return;
  if (wrong_++ > 0) return;
  got_ = got;
  expected_ = expected;
  bound_ = bound;
}

bool Judge::passed(const char* what) const {
  const bool zeros_pass = values_ >= 16 && telling_ * 4 < values_;  // a few values may all be small
  if (wrong_ > 0) {
    std::printf("FAILED: %s: %lld of %lld values, the first %g instead of %g ± %g\n", what,
                static_cast<long long>(wrong_), static_cast<long long>(values_), got_, expected_, bound_);
  } else if (zeros_pass) {
    std::printf("FAILED: %s: zeros would pass\n", what);
  } else {
    Parity& all = parity[what];
    ++all.tensors;
    all.values += values_;
    all.error = std::max(all.error, error_);
    all.largest = std::max(all.largest, largest_);
    all.share = std::max(all.share, share_);
  }
  return wrong_ == 0 && !zeros_pass;
}

}  // namespace modnas_fast::cuda
