// Separable convolutions, and a stage's two ends.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "problems.h"
#include "stage_end.h"

namespace modnas_fast::cuda {

namespace {

std::vector<float> random_weights(Element element, int count, double scale) {
  std::vector<float> values(count);
  for (float& value : values) value = rounded(element, random_normal() * scale);
  return values;
}

bool launched(cudaError_t error, const char* what) {
  if (error != cudaSuccess) std::printf("FAILED: the launch of %s returned %d\n", what, error);
  return error == cudaSuccess;
}

// What rounding to the element type adds to a result that was off already.
double stored_bound(Element element, double value, double error) {
  return error + 1.01 * relative_error(element) * (std::abs(value) + error) + absolute_error(element);
}

}  // namespace

bool run(const Kernels& kernels, SeparableProblem problem) {
  if (!kernels.fuses_output(problem.out_channels)) problem.image_channels = 0;
  const Element element = kernels.element;
  const int area = problem.kernel * problem.kernel, reach = (problem.kernel - 1) / 2;
  const int channels = problem.channels, channels_out = problem.out_channels;
  const SourceTensor source(element, random_map(element, problem.images, problem.rows, problem.columns, channels),
                            Interpolation::kNone);
  const std::vector<float> depthwise = random_weights(element, area * channels, 1.0 / problem.kernel);
  const std::vector<float> depthwise_bias = random_weights(Element::kFloat32, channels, 1);
  const std::vector<float> matrix = random_weights(element, channels * channels_out, 1 / std::sqrt(channels));
  const std::vector<float> bias = random_weights(Element::kFloat32, channels_out, 1);
  const DeviceMemory depthwise_weights(depthwise.size() * element_bytes(element));
  for (size_t i = 0; i < depthwise.size(); ++i) store(element, depthwise_weights.data(), i, depthwise[i]);
  const DeviceMemory weights(kernels.packed_bytes(channels, 0, channels_out));
  kernels.pack(matrix.data(), channels, 0, channels_out, weights.data());
  Map h(problem.images, problem.rows, problem.columns, channels_out), errors = h;
  const DeviceMemory out(h.values.size() * element_bytes(element));
  const StageEnd end(problem.images, problem.image_channels, problem.rows, problem.columns, channels_out);

  const Target target = {out.data(), problem.rows, problem.columns, channels_out, problem.relu_out};
  const Separable arguments = {problem.images,           source.source(),       problem.relu,   problem.kernel,
                               problem.dilation,         depthwise_weights.data(), depthwise_bias.data(),
                               weights.data(),           bias.data(),           target,         end.output()};
  const LaunchBefore before({source.bytes(), end.y_bytes()}, {{out.data(), out.bytes()}, end.x_bytes()});
  if (!launched(kernels.separable(arguments, nullptr), "a separable convolution")) return false;
  if (!before.was_waited_for()) return false;

  Judge judge, image_judge;
  for (int64_t pixel = 0; pixel < int64_t{problem.images} * problem.rows * problem.columns; ++pixel) {
    const int image = static_cast<int>(pixel / problem.columns / problem.rows);
    const int row = static_cast<int>(pixel / problem.columns % problem.rows);
    const int column = static_cast<int>(pixel % problem.columns);
    std::vector<Answer> answers(channels_out);
    for (int o = 0; o < channels_out; ++o) answers[o].add(1, bias[o]);
    for (int c = 0; c < channels; ++c) {
      Answer middle;
      middle.add(1, depthwise_bias[c]);
      for (int i = 0; i < area; ++i) {
        const int y = row + problem.dilation * (i / problem.kernel - reach);
        const int x = column + problem.dilation * (i % problem.kernel - reach);
        middle.add(source.get(image, y, x, c, problem.relu), depthwise[i * channels + c]);
      }
      const double error = stored_bound(element, middle.value, middle.sum_error());
      for (int o = 0; o < channels_out; ++o) answers[o].add(middle.value, matrix[c * channels_out + o], error);
    }
    for (int o = 0; o < channels_out; ++o) {
      h.at(image, row, column, o) = answers[o].value;
      errors.at(image, row, column, o) = answers[o].sum_error();
      const double value = problem.relu_out ? std::max(0.0, answers[o].value) : answers[o].value;
      judge.value(load(element, out.data(), pixel * channels_out + o), value,
                  stored_bound(element, value, answers[o].sum_error()));
    }
  }
  if (!judge.passed("a separable convolution's output")) return false;
  if (problem.image_channels == 0) return true;
  end.judge(h, errors, image_judge);
  return image_judge.passed("a separable convolution's stage end");
}

bool run_stem(const Kernels& kernels, int image_channels, int side) {
  const Element element = kernels.element;
  const int rows = side, columns = side + side / 2, images = 2, channels_out = side % 2 == 0 ? 24 : 48;
  const int rows_out = (rows + 7) / 8 * 8, columns_out = (columns + 7) / 8 * 8;
  const int64_t strides[4] = {int64_t{rows} * (columns + 1) * image_channels, 1,
                              int64_t{columns + 1} * image_channels, image_channels};
  std::vector<float> x(images * strides[0], NAN);
  for (int i = 0; i < images * rows; ++i) {
    for (int j = 0; j < columns * image_channels; ++j) x[i * strides[2] + j] = static_cast<float>(random_normal());
  }
  const std::vector<float> weights = random_weights(Element::kFloat32, 9 * image_channels * channels_out, 0.3);
  const std::vector<float> bias = random_weights(Element::kFloat32, channels_out, 1);
  const DeviceMemory out(size_t(images) * rows_out * columns_out * channels_out * element_bytes(element));
  const bool relu = image_channels == 1;
  const Stem arguments = {images,         x.data(), {strides[0], strides[1], strides[2], strides[3]},
                          image_channels, rows,     columns,
                          weights.data(), bias.data(), {out.data(), rows_out, columns_out, channels_out, relu}};
  const LaunchBefore before({{x.data(), x.size() * sizeof(float)}}, {{out.data(), out.bytes()}});
  if (!launched(kernels.stem(arguments, nullptr), "a stem")) return false;
  if (!before.was_waited_for()) return false;
  Judge judge;
  for (int image = 0; image < images; ++image) {
    for (int row = 0; row < rows_out; ++row) {
      for (int column = 0; column < columns_out; ++column) {
        for (int o = 0; o < channels_out; ++o) {
          Answer answer;
          answer.add(1, bias[o]);
          for (int i = 0; i < 9 * image_channels; ++i) {
            const int y = row + i / image_channels / 3 - 1, at = column + i / image_channels % 3 - 1;
            if (y < 0 || at < 0 || y >= rows_out || at >= columns_out) continue;
            const int64_t pixel = image * strides[0] + std::min(y, rows - 1) * strides[2] +
                                  std::min(at, columns - 1) * strides[3];
            answer.add(x[pixel + i % image_channels], weights[i * channels_out + o]);
          }
          const double value = relu ? std::max(0.0, answer.value) : answer.value;
          const int64_t index = ((int64_t{image} * rows_out + row) * columns_out + column) * channels_out + o;
          judge.value(load(element, out.data(), index), value, stored_bound(element, value, answer.sum_error()));
        }
      }
    }
  }
  return judge.passed("a stem's output");
}

bool run_output(const Kernels& kernels, int image_channels, int side) {
  const Element element = kernels.element;
  const int images = 2, channels = side % 2 == 0 ? 40 : 72, rows = (side + 7) / 8 * 8;
  const SourceTensor h(element, random_map(element, images, rows, rows, channels), Interpolation::kNone);
  const Map errors(images, rows, rows, channels);
  for (const bool poisoned : {false, true}) {
    StageEnd end(images, image_channels, side, side, channels);
    if (poisoned) end.poison_y();
    const LaunchBefore before({h.bytes(), end.y_bytes()}, {end.x_bytes()});
    if (!launched(kernels.output(images, h.source(), end.output(), nullptr), "a stage's end")) return false;
    if (!before.was_waited_for()) return false;
    if (end.found_not_finite() != poisoned) {
      std::puts("FAILED: a stage's end is wrong about whether all is finite");
      return false;
    }
    if (poisoned) continue;
    Judge judge;
    end.judge(h.map, errors, judge);
    if (!judge.passed("a stage's end")) return false;
  }
  return true;
}

}  // namespace modnas_fast::cuda
