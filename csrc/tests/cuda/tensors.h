// What kernels are tested with: memory with pages without access around it, tensors in it, and answers with error
// bounds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda/kernels.h"

namespace modnas_fast::cuda {

// Whoever reads or writes beyond its end, or a page before its begin, ends the program. Holds NaN at first.
class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  char *mapping_, *data_;
  size_t mapped_, bytes_;
};

// A launch before the one that is tested, which writes `made`: NaN until that one waits for it. What the tested one
// writes, `results`, has to hold nothing but NaN till then.
class LaunchBefore {
 public:
  struct Bytes {
    void* data;
    size_t count;
  };
  LaunchBefore(std::vector<Bytes> made, std::vector<Bytes> results);
  ~LaunchBefore();
  LaunchBefore(const LaunchBefore&) = delete;
  LaunchBefore& operator=(const LaunchBefore&) = delete;
  // Prints it if the tested launch ended without waiting, or wrote too early.
  bool was_waited_for() const;

 private:
  std::vector<Bytes> made_, results_;
  std::vector<std::vector<char>> kept_;
  bool untouched_ = true;
};

double load(Element element, const void* data, int64_t index);
void store(Element element, void* data, int64_t index, double value);
double rounded(Element element, double value);

// Half a unit in the last place: relative, and absolute where numbers are subnormal.
double relative_error(Element element);
double absolute_error(Element element);
constexpr double kFloatError = 0x1p-24;

extern std::mt19937 random_bits;
int random_below(int end);
double random_normal();

// [images, rows, columns, channels], in double, of values that the element type has.
struct Map {
  int images, rows, columns, channels;
  std::vector<double> values;
  Map(int images, int rows, int columns, int channels);
  double& at(int image, int row, int column, int channel) {
    return values[((int64_t{image} * rows + row) * columns + column) * channels + channel];
  }
  double at(int image, int row, int column, int channel) const {
    return const_cast<Map*>(this)->at(image, row, column, channel);
  }
};
Map random_map(Element element, int images, int rows, int columns, int channels);

// A map as kernels read it.
struct SourceTensor {
  Map map;
  Interpolation interpolation;
  DeviceMemory memory;
  SourceTensor(Element element, Map values, Interpolation interpolation);
  Source source() const { return {memory.data(), map.rows, map.columns, map.channels, interpolation}; }
  LaunchBefore::Bytes bytes() const { return {memory.data(), memory.bytes()}; }
  // As a convolution sees it: interpolated, rectified, zero beyond its borders.
  double get(int image, int row, int column, int channel, bool relu) const;
  // What a kernel's own interpolation may be off.
  double error(Element element, double value) const;
};

// Sums with what they may be off: of `terms` terms whose magnitudes add up to `magnitude`.
struct Answer {
  double value = 0, magnitude = 0, inherited = 0;
  int terms = 0;
  void add(double factor, double weight, double factor_error = 0);
  double sum_error() const { return inherited + 1.01 * (terms + 8) * kFloatError * magnitude; }
};

// Compares what a kernel wrote; counts values that are wrong, and such that an answer of zeros would have right.
class Judge {
 public:
  void value(double got, double expected, double bound);
  // Prints what went wrong, and that it did; what is right counts in `parity`.
  bool passed(const char* what) const;
  bool wrong() const { return wrong_ > 0; }

 private:
  int64_t values_ = 0, wrong_ = 0, telling_ = 0;
  double got_ = 0, expected_ = 0, bound_ = 0;  // of the first wrong one
  double error_ = 0, largest_ = 0, share_ = 0;
};

// Of results that were right, by what they are: how many, the largest error and value, and the largest share that an
// error has of its bound.
struct Parity {
  int tensors = 0;
  int64_t values = 0;
  double error = 0, largest = 0, share = 0;
};
extern std::map<std::string, Parity> parity;

}  // namespace modnas_fast::cuda
