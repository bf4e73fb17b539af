// Depthwise convolutions of training and their gradients in the weights.
#include "cpu/parts.h"
#include "cpu/training.h"
#include "cpu/variant.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {
namespace {

constexpr int kPixels = kLanes == 16 ? 8 : 4;  // sums, a kernel row's inputs and its weights fill the registers

// Row `y` of an image, one vector of channels: adds what kernel row `i` contributes to pixels [begin, end), all of whose
// taps lie in the image. `from` is the row that the taps lie in.
template <int kTaps, int kDilation, int kCount, typename Element>
MODNAS_FAST_INLINE void add_taps(Vector (&sums)[kCount], const Element* from, int64_t stride, const float* weights,
                                 Part part) {
  constexpr int kWidth = kCount + (kTaps - 1) * kDilation;
  Vector values[kWidth];
#pragma GCC unroll 16
  for (int x = 0; x < kWidth; ++x) values[x] = load(from + x * stride, part);
#pragma GCC unroll 5
  for (int j = 0; j < kTaps; ++j) {
    const Vector weight = load(weights + j * stride, part);
#pragma GCC unroll 8
    for (int x = 0; x < kCount; ++x) sums[x] += weight * values[x + j * kDilation];
  }
}

template <int kTaps, int kDilation, typename Element>
struct Depthwise {
  static constexpr int64_t kReach = kTaps / 2 * kDilation;

  // Columns whose taps all lie in the image: [begin, end), empty where there are none.
  static int64_t inner_begin(const Images& size) { return kReach < size.columns ? kReach : size.columns; }
  static int64_t inner_end(const Images& size) {
    const int64_t end = size.columns - kReach, begin = inner_begin(size);
    return end > begin ? end : begin;
  }

  // `kCount` pixels from column x on, all within reach of whole kernel rows.
  template <int kCount>
  static void inner(const DepthwiseArguments& arguments, const Element* image, int64_t y, int64_t x, Element* to) {
    const int64_t C = arguments.channels, columns = arguments.size.columns;
    for (int64_t channel = 0; channel < C; channel += kLanes) {
      Vector sums[kCount] = {};
      for (int64_t i = 0; i < kTaps; ++i) {
        const int64_t row = y + i * kDilation - kReach;
        if (row < 0 || row >= arguments.size.rows) continue;
        add_taps<kTaps, kDilation>(sums, image + (row * columns + x - kReach) * C + channel, C,
                                   arguments.weights + i * kTaps * C + channel, Part(C - channel));
      }
#pragma GCC unroll 8
      for (int p = 0; p < kCount; ++p) store(to + p * C + channel, sums[p], Part(C - channel));
    }
  }

  // One pixel, some of whose taps lie outside.
  static void border(const DepthwiseArguments& arguments, const Element* image, int64_t y, int64_t x, Element* to) {
    const int64_t C = arguments.channels, columns = arguments.size.columns;
    for (int64_t channel = 0; channel < C; channel += kLanes) {
      Vector sum = {};
      for (int64_t i = 0; i < kTaps; ++i) {
        const int64_t row = y + i * kDilation - kReach;
        if (row < 0 || row >= arguments.size.rows) continue;
        for (int64_t j = 0; j < kTaps; ++j) {
          const int64_t column = x + j * kDilation - kReach;
          if (column < 0 || column >= columns) continue;
          sum += load(arguments.weights + (i * kTaps + j) * C + channel, Part(C - channel)) *
                 load(image + (row * columns + column) * C + channel, Part(C - channel));
        }
      }
      store(to + channel, sum, Part(C - channel));
    }
  }

  static void forward(const DepthwiseArguments& arguments, int64_t begin, int64_t end) {
    const Images& size = arguments.size;
    const int64_t C = arguments.channels;
    for (int64_t line = begin; line < end; ++line) {
      const int64_t y = line % size.rows;
      const Element* image = static_cast<const Element*>(arguments.x) + (line - y) * size.columns * C;
      Element* to = static_cast<Element*>(arguments.y) + line * size.columns * C;
      int64_t x = 0;
      for (; x < inner_begin(size); ++x) border(arguments, image, y, x, to + x * C);
      for (; x + kPixels <= inner_end(size); x += kPixels) inner<kPixels>(arguments, image, y, x, to + x * C);
      for (; x < inner_end(size); ++x) inner<1>(arguments, image, y, x, to + x * C);
      for (; x < size.columns; ++x) border(arguments, image, y, x, to + x * C);
    }
  }

  // Kernel row i of the gradient in the weights, one vector of channels, from one row of images: `dy` is its gradient,
  // `from` the row of x that the taps lie in.
  static void row_dweight(const Images& size, int64_t C, const Element* from, const Element* dy, float* to,
                          Part part) {
    Vector sums[2][kTaps] = {};  // two of each, since one product waits for the last
    const auto border = [&](int64_t x) {
      for (int64_t j = 0; j < kTaps; ++j) {
        const int64_t column = x + j * kDilation - kReach;
        if (column < 0 || column >= size.columns) continue;
        sums[0][j] += load(dy + x * C, part) * load(from + column * C, part);
      }
    };
    int64_t x = 0;
    for (; x < inner_begin(size); ++x) border(x);
    constexpr int kCount = 4, kWidth = kCount + (kTaps - 1) * kDilation;
    for (; x + kCount <= inner_end(size); x += kCount) {
      Vector values[kWidth];
#pragma GCC unroll 16
      for (int p = 0; p < kWidth; ++p) values[p] = load(from + (x + p - kReach) * C, part);
#pragma GCC unroll 4
      for (int p = 0; p < kCount; ++p) {
        const Vector gradient = load(dy + (x + p) * C, part);
#pragma GCC unroll 5
        for (int j = 0; j < kTaps; ++j) sums[p % 2][j] += gradient * values[p + j * kDilation];
      }
    }
    for (; x < size.columns; ++x) border(x);
#pragma GCC unroll 5
    for (int j = 0; j < kTaps; ++j) {
      store(to + j * C, load(to + j * C, part) + sums[0][j] + sums[1][j], part);
    }
  }

  static void dweight(const DepthwiseArguments& arguments, int64_t begin, int64_t end, float* to) {
    const Images& size = arguments.size;
    const int64_t C = arguments.channels;
    for (int64_t line = begin; line < end; ++line) {
      const int64_t y = line % size.rows;
      for (int64_t i = 0; i < kTaps; ++i) {
        const int64_t row = y + i * kDilation - kReach;
        if (row < 0 || row >= size.rows) continue;
        for (int64_t channel = 0; channel < C; channel += kLanes) {
          const Element* from = static_cast<const Element*>(arguments.x) + (line - y + row) * size.columns * C + channel;
          const Element* dy = static_cast<const Element*>(arguments.y_given) + line * size.columns * C + channel;
          row_dweight(size, C, from, dy, to + i * kTaps * C + channel, Part(C - channel));
        }
      }
    }
  }
};

template <typename Function>
void with_kernel(const DepthwiseArguments& arguments, const Function& function) {
  with_element(arguments.storage, [&](auto element) {
    using Element = decltype(element);
    if (arguments.kernel == 3 && arguments.dilation == 1) function(Depthwise<3, 1, Element>());
    if (arguments.kernel == 5 && arguments.dilation == 1) function(Depthwise<5, 1, Element>());
    if (arguments.kernel == 3 && arguments.dilation == 2) function(Depthwise<3, 2, Element>());
    if (arguments.kernel == 5 && arguments.dilation == 2) function(Depthwise<5, 2, Element>());
  });
}

}  // namespace

void depthwise(const DepthwiseArguments& arguments, int64_t begin, int64_t end) {
  with_kernel(arguments, [&](auto kernel) { kernel.forward(arguments, begin, end); });
}

void depthwise_dweight(const DepthwiseArguments& arguments, int64_t begin, int64_t end, float* dweight) {
  with_kernel(arguments, [&](auto kernel) { kernel.dweight(arguments, begin, end, dweight); });
}

}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
