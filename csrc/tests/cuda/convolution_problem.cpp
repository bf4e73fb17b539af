#include <algorithm>
#include <cmath>
#include <cstdio>

#include "problems.h"
#include "stage_end.h"

namespace modnas_fast::cuda {

namespace {

std::vector<Tap> square(int kernel, int dilation) {
  std::vector<Tap> taps;
  const int reach = (kernel - 1) / 2 * dilation;
  for (int dy = -reach; dy <= reach; dy += dilation) {
    for (int dx = -reach; dx <= reach; dx += dilation) taps.push_back({int8_t(dy), int8_t(dx)});
  }
  return taps;
}

std::vector<std::vector<Tap>> phases_of(const ConvolutionProblem& problem) {
  if (problem.taps == Taps::kSquare) {
    if (problem.kernel == 2) return {{{0, 0}, {0, 1}, {1, 0}, {1, 1}}};
    return {square(problem.kernel, 1)};
  }
  if (problem.taps == Taps::kDilated) return {square(problem.kernel, 2)};
  if (problem.taps == Taps::kSubPixel) return {4, square(3, 1)};
  std::vector<std::vector<Tap>> phases;
  for (int phase = 0; phase < 4; ++phase) {
    phases.emplace_back();
    for (int dy = 0; dy <= phase / 2; ++dy) {
      for (int dx = 0; dx <= phase % 2; ++dx) phases.back().push_back({int8_t(dy), int8_t(dx)});
    }
  }
  return phases;
}

// A convolution's operands.
class Operands {
 public:
  Operands(const Kernels& kernels, const ConvolutionProblem& problem)
      : problem_(problem), element_(kernels.element), phases_(phases_of(problem)),
        scale_(phases_.size() > 1 ? 2 : 1), rows_(problem.rows * scale_), columns_(problem.columns * scale_),
        shortcut_(make(rows_, columns_, problem.shortcut_channels, Interpolation::kNone)),
        out_(size_t(problem.images) * rows_ * columns_ * problem.out_channels * element_bytes(element_)),
        end_(problem.images, problem.image_channels, rows_ - rows_ / 4, columns_ - 1 + (columns_ == 1),
             problem.out_channels) {
    for (int i = 0; i < 2; ++i) {
      const int finer = problem.interpolations[i] == Interpolation::kNone ? 1 : 2;
      const auto size = [&](int outputs) { return (outputs * problem.stride + finer - 1) / finer; };
      sources_[i] = make(size(problem.rows), size(problem.columns), problem.channels[i], problem.interpolations[i]);
    }
    const int channels = problem.channels[0] + problem.channels[1];
    for (const std::vector<Tap>& taps : phases_) {
      const int rows = static_cast<int>(taps.size()) * channels;
      std::vector<float> matrix(size_t(rows + problem.shortcut_channels) * problem.out_channels);
      const double scale = 1 / std::sqrt(double(rows));
      for (float& value : matrix) value = rounded(element_, random_normal() * scale);
      const int64_t bytes = kernels.packed_bytes(rows, problem.shortcut_channels, problem.out_channels);
      packed_.push_back(std::make_unique<DeviceMemory>(bytes));
      kernels.pack(matrix.data(), rows, problem.shortcut_channels, problem.out_channels, packed_.back()->data());
      weights_.push_back(std::move(matrix));
      for (int c = 0; c < problem.out_channels; ++c) bias_.push_back(static_cast<float>(random_normal() + 0.5));
    }
  }

  Convolution arguments() const {
    Convolution result = {};
    result.images = problem_.images;
    for (int i = 0; i < 2; ++i) {
      if (sources_[i] != nullptr) result.sources[i] = sources_[i]->source();
    }
    result.relu = problem_.relu;
    result.stride = problem_.stride;
    result.scale = scale_;
    result.num_phases = static_cast<int>(phases_.size());
    for (int i = 0; i < result.num_phases; ++i) {
      Phase& phase = result.phases[i];
      phase.row = i / 2;
      phase.column = i % 2;
      phase.num_taps = static_cast<int>(phases_[i].size());
      std::copy(phases_[i].begin(), phases_[i].end(), phase.taps);
      phase.weights = packed_[i]->data();
    }
    result.bias = bias_.data();
    if (shortcut_ != nullptr) result.shortcut = shortcut_->source();
    const bool stored = problem_.keep || problem_.image_channels == 0;
    result.out = {stored ? out_.data() : nullptr, rows_, columns_, problem_.out_channels, problem_.relu_out};
    result.output = end_.output();
    return result;
  }

  LaunchBefore launch_before() const {
    std::vector<LaunchBefore::Bytes> made;
    for (const SourceTensor* tensor : {sources_[0].get(), sources_[1].get(), shortcut_.get()}) {
      if (tensor != nullptr) made.push_back(tensor->bytes());
    }
    made.push_back(end_.y_bytes());
    return {made, {{out_.data(), out_.bytes()}, end_.x_bytes()}};
  }

  bool right() const {
    Map h(problem_.images, rows_, columns_, problem_.out_channels), errors = h;
    for (size_t phase = 0; phase < phases_.size(); ++phase) expect(static_cast<int>(phase), h, errors);
    Judge stored, image;
    if (problem_.keep || problem_.image_channels == 0) {
      for (size_t i = 0; i < h.values.size(); ++i) {
        const double value = problem_.relu_out ? std::max(0.0, h.values[i]) : h.values[i];
        const double error = errors.values[i];
        const double bound = error + 1.01 * relative_error(element_) * (std::abs(value) + error);
        stored.value(load(element_, out_.data(), i), value, bound + absolute_error(element_));
      }
      if (!stored.passed("a convolution's output")) return false;
    }
    if (problem_.image_channels == 0) return true;
    end_.judge(h, errors, image);
    return image.passed("a convolution's stage end") && !end_.found_not_finite();
  }

 private:
  std::unique_ptr<SourceTensor> make(int rows, int columns, int channels, Interpolation interpolation) const {
    if (channels == 0) return nullptr;
    return std::make_unique<SourceTensor>(element_, random_map(element_, problem_.images, rows, columns, channels),
                                          interpolation);
  }

  void expect(int phase, Map& h, Map& errors) const {
    const int channels_out = problem_.out_channels;
    std::vector<Answer> answers(channels_out);
    for (int image = 0; image < problem_.images; ++image) {
      for (int i = 0; i < problem_.rows; ++i) {
        for (int j = 0; j < problem_.columns; ++j) {
          const float* weights = weights_[phase].data();
          const auto add = [&](const SourceTensor& source, int row, int column, bool relu) {
            for (int c = 0; c < source.map.channels; ++c, weights += channels_out) {
              const double value = source.get(image, row, column, c, relu);
              const double error = source.error(element_, value);
              if (value == 0 && error == 0) continue;
              for (int out = 0; out < channels_out; ++out) answers[out].add(value, weights[out], error);
            }
          };
          for (int out = 0; out < channels_out; ++out) {
            answers[out] = {};
            answers[out].add(1, bias_[phase * channels_out + out]);
          }
          for (const Tap& tap : phases_[phase]) {
            for (const auto& source : sources_) {
              if (source == nullptr) continue;
              add(*source, problem_.stride * i + tap.dy, problem_.stride * j + tap.dx, problem_.relu);
            }
          }
          const int row = scale_ * i + phase / 2, column = scale_ * j + phase % 2;
          if (shortcut_ != nullptr) add(*shortcut_, row, column, false);
          for (int out = 0; out < channels_out; ++out) {
            h.at(image, row, column, out) = answers[out].value;
            errors.at(image, row, column, out) = answers[out].sum_error();
          }
        }
      }
    }
  }

  const ConvolutionProblem& problem_;
  const Element element_;
  const std::vector<std::vector<Tap>> phases_;
  const int scale_, rows_, columns_;
  std::unique_ptr<SourceTensor> sources_[2], shortcut_;
  std::vector<std::vector<float>> weights_;
  std::vector<std::unique_ptr<DeviceMemory>> packed_;
  std::vector<float> bias_;
  DeviceMemory out_;
  StageEnd end_;
};

// What to look at where a random problem fails.
void print(const ConvolutionProblem& p) {
  std::printf("  %d images, %d×%d, taps %d, kernel %d, stride %d, channels %d + %d (interpolated: %d, %d) to %d, "
              "ReLU %d %d, shortcut %d, image channels %d, stored %d\n",
              p.images, p.rows, p.columns, static_cast<int>(p.taps), p.kernel, p.stride, p.channels[0], p.channels[1],
              static_cast<int>(p.interpolations[0]), static_cast<int>(p.interpolations[1]), p.out_channels, p.relu,
              p.relu_out, p.shortcut_channels, p.image_channels, p.keep);
}

}  // namespace

bool run(const Kernels& kernels, ConvolutionProblem problem) {
  if (!kernels.fuses_output(problem.out_channels)) problem.image_channels = 0;
  const Operands operands(kernels, problem);
  if (kernels.element != Element::kFloat32) note_shape(operands.arguments());
  const LaunchBefore before = operands.launch_before();
  const cudaError_t error = kernels.convolution(operands.arguments(), nullptr);
  if (error != cudaSuccess) {
    std::printf("FAILED: a convolution's launch returned %d\n", error);
    return false;
  }
  const bool right = before.was_waited_for() && operands.right();
  if (!right) print(problem);
  return right;
}

}  // namespace modnas_fast::cuda
