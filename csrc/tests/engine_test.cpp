// A stand-alone check of the engine, for sanitizers: every layer against plain loops in double, all variants, sizes
// that leave partial tiles, several threads, several callers. Prints what failed and returns 1, or returns 0.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <thread>

#include "memory.h"
#include "network.h"

namespace modnas_fast {

int test_training();  // training_test.cpp

namespace {

int failures = 0;

void check(bool condition, const std::string& what) {
  if (condition) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failures;
}

std::mt19937 random_bits(1);

std::vector<float> random_floats(int64_t count, double scale) {
  std::normal_distribution<float> normal(0, static_cast<float>(scale));
  std::vector<float> values(count);
  for (float& value : values) value = normal(random_bits);
  return values;
}

// A planar image or feature map in double.
struct Map {
  int64_t channels, rows, columns;
  std::vector<double> values;
  Map(int64_t c, int64_t h, int64_t w) : channels(c), rows(h), columns(w), values(c * h * w) {}
  double& at(int64_t c, int64_t y, int64_t x) { return values[(c * rows + y) * columns + x]; }
  double get(int64_t c, int64_t y, int64_t x, bool relu) const {
    if (y < 0 || x < 0 || y >= rows || x >= columns) return 0;
    const double value = values[(c * rows + y) * columns + x];
    return relu ? std::max(0.0, value) : value;
  }
};

// out[o] += Σ weight[o, first + c] · in[c], k×k with stride and dilation; groups of one channel where depthwise.
void add_convolution(const Map& in, const std::vector<float>& weight, int64_t inputs, int64_t first, int kernel,
                     int stride, int dilation, bool relu, bool depthwise, Map& out) {
  const int64_t padding = (kernel - 1) / 2 * dilation;
  for (int64_t o = 0; o < out.channels; ++o) {
    for (int64_t c = depthwise ? o : 0; c < (depthwise ? o + 1 : in.channels); ++c) {
      for (int64_t y = 0; y < out.rows; ++y) {
        for (int64_t x = 0; x < out.columns; ++x) {
          double sum = 0;
          for (int64_t i = 0; i < kernel; ++i) {
            for (int64_t j = 0; j < kernel; ++j) {
              const int64_t channel = depthwise ? o : o * inputs + first + c;
              sum += in.get(c, y * stride + i * dilation - padding, x * stride + j * dilation - padding, relu) *
                     weight[(channel * kernel + i) * kernel + j];
            }
          }
          out.at(o, y, x) += sum;
        }
      }
    }
  }
}

void add_bias(const std::vector<float>& bias, Map& out) {
  for (int64_t c = 0; c < out.channels; ++c) {
    for (int64_t i = 0; i < out.rows * out.columns; ++i) out.values[c * out.rows * out.columns + i] += bias[c];
  }
}

Map expected_layer(const Layer& layer, const std::vector<Map>& maps) {
  const Map& in = maps[layer.inputs[0]];
  const bool doubles = layer.op == Op::kTransposed || layer.op == Op::kSubPixel || layer.op == Op::kBilinear ||
                       layer.op == Op::kNearest;
  Map out(layer.channels, doubles ? in.rows * 2 : in.rows / layer.stride,
          doubles ? in.columns * 2 : in.columns / layer.stride);
  int64_t inputs = 0, first = 0;
  for (int input : layer.inputs) inputs += maps[input].channels;
  switch (layer.op) {
    case Op::kConvolution:
    case Op::kOutput:
      for (int input : layer.inputs) {
        add_convolution(maps[input], layer.weight, inputs, first, layer.kernel, layer.stride, 1,
                        layer.relu || layer.op == Op::kOutput, false, out);
        first += maps[input].channels;
      }
      add_bias(layer.bias, out);
      if (layer.shortcut >= 0) {
        const Map& source = maps[layer.shortcut];
        add_convolution(source, layer.shortcut_weight, source.channels, 0, 1, 1, 1, false, false, out);
        add_bias(layer.shortcut_bias, out);
      }
      break;
    case Op::kSeparable: {
      Map middle(in.channels, in.rows, in.columns);
      add_convolution(in, layer.depthwise_weight, 1, 0, layer.kernel, 1, layer.dilation, layer.relu, true, middle);
      add_bias(layer.depthwise_bias, middle);
      add_convolution(middle, layer.weight, inputs, 0, 1, 1, 1, false, false, out);
      add_bias(layer.bias, out);
      break;
    }
    case Op::kTransposed:
      for (int64_t c = 0; c < in.channels; ++c) {
        for (int64_t o = 0; o < out.channels; ++o) {
          for (int64_t y = 0; y < in.rows * 3; ++y) {
            for (int64_t x = 0; x < in.columns * 3; ++x) {
              const int64_t to_y = y / 3 * 2 + y % 3 - 1, to_x = x / 3 * 2 + x % 3 - 1;
              if (to_y < 0 || to_x < 0 || to_y >= out.rows || to_x >= out.columns) continue;
              out.at(o, to_y, to_x) += in.get(c, y / 3, x / 3, layer.relu) *
                                       layer.weight[((c * out.channels + o) * 3 + y % 3) * 3 + x % 3];
            }
          }
        }
      }
      add_bias(layer.bias, out);
      break;
    case Op::kSubPixel: {
      Map packed(4 * layer.channels, in.rows, in.columns);
      add_convolution(in, layer.weight, inputs, 0, 3, 1, 1, layer.relu, false, packed);
      add_bias(layer.bias, packed);
      for (int64_t c = 0; c < packed.channels; ++c) {
        for (int64_t y = 0; y < in.rows; ++y) {
          for (int64_t x = 0; x < in.columns; ++x) {
            out.at(c / 4, 2 * y + c % 4 / 2, 2 * x + c % 2) = packed.at(c, y, x);
          }
        }
      }
      break;
    }
    case Op::kBilinear:
    case Op::kNearest:
      for (int64_t c = 0; c < out.channels; ++c) {
        for (int64_t y = 0; y < out.rows; ++y) {
          for (int64_t x = 0; x < out.columns; ++x) {
            const double far = layer.op == Op::kBilinear ? 0.25 : 0;
            const int64_t y2 = std::clamp<int64_t>(y / 2 + (y % 2 != 0 ? 1 : -1), 0, in.rows - 1);
            const int64_t x2 = std::clamp<int64_t>(x / 2 + (x % 2 != 0 ? 1 : -1), 0, in.columns - 1);
            const auto row = [&](int64_t from) {
              return (1 - far) * in.get(c, from, x / 2, false) + far * in.get(c, from, x2, false);
            };
            out.at(c, y, x) = (1 - far) * row(y / 2) + far * row(y2);
          }
        }
      }
      break;
  }
  return out;
}

// Builds a stage that has every kind of layer; widths leave columns over and need padding.
class StageBuilder {
 public:
  explicit StageBuilder(int64_t image_channels) : channels_{image_channels} {}

  Layer& add(Op op, std::vector<int> inputs, int64_t channels, int kernel, bool relu, int stride = 1,
             int dilation = 1, int shortcut = -1) {
    Layer layer;
    layer.name = "layer " + std::to_string(layers.size());
    layer.op = op;
    layer.inputs = inputs;
    layer.output = static_cast<int>(layers.size()) + 1;
    layer.channels = channels;
    layer.kernel = kernel;
    layer.stride = stride;
    layer.dilation = dilation;
    layer.relu = relu;
    layer.shortcut = shortcut;
    int64_t width = 0;
    for (int input : inputs) width += channels_[input];
    const int64_t taps = int64_t{kernel} * kernel, made = op == Op::kSubPixel ? 4 * channels : channels;
    if (op == Op::kSeparable) {
      layer.depthwise_weight = random_floats(width * taps, 1 / std::sqrt(static_cast<double>(taps)));
      layer.depthwise_bias = random_floats(width, 0.1);
      layer.weight = random_floats(width * channels, 1 / std::sqrt(static_cast<double>(width)));
      layer.bias = random_floats(channels, 0.1);
    } else if (op != Op::kBilinear && op != Op::kNearest) {
      layer.weight = random_floats(made * width * taps, 1 / std::sqrt(static_cast<double>(width * taps)));
      layer.bias = random_floats(made, 0.1);
    }
    if (shortcut >= 0) {
      layer.shortcut_weight = random_floats(channels * channels_[shortcut], 0.3);
      layer.shortcut_bias = random_floats(channels, 0.1);
    }
    channels_.push_back(channels);
    layers.push_back(layer);
    return layers.back();
  }
  int last() const { return static_cast<int>(layers.size()); }

  std::vector<Layer> layers;

 private:
  std::vector<int64_t> channels_;
};

std::vector<Layer> make_stage(int64_t image_channels) {
  StageBuilder stage(image_channels);
  stage.add(Op::kConvolution, {0}, 12, 3, false);                                 // 1
  stage.add(Op::kConvolution, {1}, 24, 3, true);                                  // 2
  stage.add(Op::kConvolution, {2}, 24, 3, true);                                  // 3
  stage.add(Op::kConvolution, {3}, 40, 3, true, 1, 1, 2);                         // 4: a residual block's end
  stage.add(Op::kConvolution, {4}, 9, 3, true, 2);                                // 5: half
  stage.add(Op::kSeparable, {5}, 17, 5, true, 1, 2);                              // 6
  stage.add(Op::kConvolution, {6}, 56, 5, true);                                  // 7
  stage.add(Op::kConvolution, {7}, 16, 2, false, 2);                              // 8: quarter
  stage.add(Op::kConvolution, {8}, 8, 1, false, 2);                               // 9: eighth
  stage.add(Op::kTransposed, {9}, 24, 3, true);                                   // 10: quarter
  stage.add(Op::kConvolution, {10, 8}, 20, 3, false);                             // 11
  stage.add(Op::kSubPixel, {11}, 8, 3, true);                                     // 12: half
  stage.add(Op::kSeparable, {12}, 16, 3, true);                                   // 13
  stage.add(Op::kBilinear, {13}, 16, 1, false);                                   // 14: full
  stage.add(Op::kNearest, {12}, 8, 1, false);                                     // 15
  stage.add(Op::kConvolution, {14, 4}, 28, 3, false);                             // 16
  stage.add(Op::kConvolution, {16, 15}, 10, 1, false);                            // 17
  stage.add(Op::kOutput, {17}, image_channels, 1, true).delta = 0.3f;             // 18
  return stage.layers;
}

std::vector<double> expected(const std::vector<std::vector<Layer>>& stages, const std::vector<float>& image,
                             int64_t channels, int64_t rows, int64_t columns) {
  Map y(channels, (rows + 7) / 8 * 8, (columns + 7) / 8 * 8);
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t i = 0; i < y.rows; ++i) {
      for (int64_t j = 0; j < y.columns; ++j) {
        y.at(c, i, j) = image[(c * rows + std::min(i, rows - 1)) * columns + std::min(j, columns - 1)];
      }
    }
  }
  Map x = y;
  for (const std::vector<Layer>& layers : stages) {
    std::vector<Map> maps = {x};
    for (const Layer& layer : layers) maps.push_back(expected_layer(layer, maps));
    const double delta = layers.back().delta;
    for (size_t i = 0; i < y.values.size(); ++i) {
      x.values[i] = delta * y.values[i] + (1 - delta) * maps.back().values[i];
    }
  }
  std::vector<double> result;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) result.push_back(x.at(c, i, j));
    }
  }
  return result;
}

std::vector<float> run(Network& network, const std::vector<float>& image, int64_t rows, int64_t columns) {
  std::vector<float> out(image.size(), NAN);
  const ImageView<const float> from = {image.data(), rows * columns, columns, 1};
  const bool done = network.run({0, network.stages(), from, from, rows, columns,
                                 {out.data(), rows * columns, columns, 1}, {0, rows, 0, columns}}, nullptr);
  check(done, "a run without progress callback ends");
  return out;
}

void test_networks() {
  const int64_t shapes[][3] = {{1, 1, 1}, {1, 8, 8}, {1, 13, 37}, {3, 24, 40}};
  for (const auto& shape : shapes) {
    const int64_t channels = shape[0], rows = shape[1], columns = shape[2];
    const std::vector<std::vector<Layer>> stages = {make_stage(channels), make_stage(channels)};
    const std::vector<float> image = random_floats(channels * rows * columns, 1);
    const std::vector<double> want = expected(stages, image, channels, rows, columns);
    for (const char* variant : {"portable", "avx2", "avx512", "avx512_bf16"}) {
      if (select_kernels(variant) == nullptr) continue;
      for (const Storage storage : {Storage::kFloat32, Storage::kBfloat16}) {
        Network network(channels, stages, storage == Storage::kFloat32 ? 3 : 2, variant, storage);
        const std::vector<float> got = run(network, image, rows, columns);
        double error = 0, norm = 0;
        for (size_t i = 0; i < got.size(); ++i) {
          error += (got[i] - want[i]) * (got[i] - want[i]);
          norm += want[i] * want[i];
        }
        const double relative = std::sqrt(error / norm);
        const double bound = storage == Storage::kFloat32 ? 3e-6 : 1e-2;  // 36 layers, each rounded to 8 bits
        check(relative < bound, std::string(variant) + " " + std::to_string(rows) + "x" + std::to_string(columns) +
                                   ": relative error " + std::to_string(relative));
      }
    }
  }
}

void test_callers_take_turns() {
  Network network(1, {make_stage(1)}, 2, "");
  const std::vector<float> image = random_floats(24 * 40, 1);
  const std::vector<float> want = run(network, image, 24, 40);
  std::vector<std::thread> callers;
  std::vector<std::vector<float>> results(4);
  for (auto& result : results) {
    callers.emplace_back([&] { result = run(network, image, 24, 40); });
  }
  for (std::thread& caller : callers) caller.join();
  for (const auto& result : results) check(result == want, "several callers get what one gets");
}

// A network of gray images is right, and the same to the bit with any number of threads and whatever memory holds.
void check_repeats(const std::vector<std::vector<Layer>>& stages, int64_t rows, int64_t columns,
                   const std::string& what) {
  const std::vector<float> image = random_floats(rows * columns, 1);
  const std::vector<double> want = expected(stages, image, 1, rows, columns);
  std::vector<float> first;
  for (int threads : {1, 3}) {
    Network network(1, stages, threads, "");
    for (int call = 0; call < 2; ++call) {  // the second finds the first one's remains
      const std::vector<float> got = run(network, image, rows, columns);
      double worst = 0;
      for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - want[i]));
      check(worst < 1e-4, what + ": worst error " + std::to_string(worst));
      if (first.empty()) first = got;
      check(got == first, what + " repeat to the bit");
    }
  }
}

// Two residual blocks one after the other, and a reader of what lies before them.
void test_a_sum_replaces_what_its_shortcut_read() {
  StageBuilder stage(1);
  stage.add(Op::kConvolution, {0}, 24, 3, false);
  stage.add(Op::kConvolution, {1}, 16, 3, true);
  stage.add(Op::kConvolution, {2}, 24, 3, true, 1, 1, 1);
  stage.add(Op::kConvolution, {3}, 24, 5, true);
  stage.add(Op::kConvolution, {4}, 24, 5, true, 1, 1, 3);
  stage.add(Op::kConvolution, {5}, 24, 3, true);
  stage.add(Op::kConvolution, {6}, 24, 3, true, 1, 1, 5);
  stage.add(Op::kConvolution, {7, 5}, 8, 3, false);
  stage.add(Op::kOutput, {8}, 1, 1, true);
  const PreparedStage prepared = prepare_stage(stage.layers, 1, 8);
  const Plan plan = make_plan(prepared, Storage::kFloat32, 40, 48, true);
  check(plan.tensors[3].offset == plan.tensors[1].offset && plan.tensors[5].offset == plan.tensors[1].offset,
        "sums take their place over, one after the other");
  check(plan.tensors[7].offset != plan.tensors[5].offset, "what is read later stays");
  const std::vector<float> image = random_floats(40 * 48, 1);
  const std::vector<double> want = expected({stage.layers}, image, 1, 40, 48);
  for (int threads : {1, 3}) {
    Network network(1, {stage.layers}, threads, "");
    const std::vector<float> got = run(network, image, 40, 48);
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - want[i]));
    check(worst < 1e-4, "residual blocks in place: worst error " + std::to_string(worst));
  }
}

// What the next layer alone reads is kept as two bands: of every kind of writer and for both kinds of reader, within a sum
// that replaces an operand of both layers, and before a convolution in place. The last band has fewer rows than one
// reader reaches.
void test_rolling_tensors() {
  StageBuilder stage(1);
  stage.add(Op::kConvolution, {0}, 8, 3, false);           // 1: rolling
  stage.add(Op::kConvolution, {1}, 16, 5, true);           // 2: read by two layers
  stage.add(Op::kConvolution, {2}, 16, 3, true);           // 3: rolling
  stage.add(Op::kConvolution, {3}, 16, 3, true, 1, 1, 2);  // 4: a residual block's end, in the place of 2
  stage.add(Op::kSeparable, {4}, 8, 3, true);              // 5: rolling
  stage.add(Op::kSeparable, {5}, 8, 7, true, 1, 4);        // 6: reaches 12 rows
  stage.add(Op::kConvolution, {6}, 8, 3, true, 2);         // 7: half
  stage.add(Op::kBilinear, {7}, 8, 1, false);              // 8: rolling
  stage.add(Op::kConvolution, {8, 4}, 8, 3, false);        // 9: over 4
  stage.add(Op::kConvolution, {9}, 8, 3, true);            // 10: rolling
  stage.add(Op::kConvolution, {10, 6}, 8, 3, true);        // 11: over 6
  stage.add(Op::kSubPixel, {7}, 8, 3, true);               // 12: rolling, written in phases
  stage.add(Op::kConvolution, {12, 11}, 8, 3, true);       // 13
  stage.add(Op::kOutput, {13}, 1, 1, true);                // 14
  const int64_t rows = 72, columns = 768;
  const PreparedStage prepared = prepare_stage(stage.layers, 1, 8);
  const Plan plan = make_plan(prepared, Storage::kFloat32, rows, columns, true);
  std::vector<bool> rolling;
  for (const Placement& tensor : plan.tensors) rolling.push_back(tensor.rolling);
  check(rolling == std::vector<bool>({0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 0}), "which tensors are rolling");
  check(plan.tensors[4].offset == plan.tensors[2].offset && plan.in_place[8], "and what is overwritten all the same");
  const Plan tall = make_plan(prepared, Storage::kFloat32, 3 * rows, columns, true);
  check(tall.tensors[3].bytes() == plan.tensors[3].bytes(), "two bands, however many rows there are");
  check_repeats({stage.layers}, rows, columns, "rolling tensors");
}

// Convolutions of every kind of input: one that is as wide, one that is wider, one too narrow, one of two.
void test_outputs_overwrite_inputs() {
  StageBuilder stage(1);
  stage.add(Op::kConvolution, {0}, 24, 3, false);
  stage.add(Op::kConvolution, {1}, 24, 3, true);
  stage.add(Op::kConvolution, {2}, 16, 5, true);
  stage.add(Op::kConvolution, {3}, 24, 3, true);
  stage.add(Op::kConvolution, {4, 3}, 16, 3, false);
  stage.add(Op::kOutput, {5}, 1, 1, true);
  const int64_t rows = 200, columns = 80;
  const Plan plan = make_plan(prepare_stage(stage.layers, 1, 8), Storage::kFloat32, rows, columns, true);
  const std::vector<bool> in_place = {false, true, true, false, true, false};
  check(plan.in_place == in_place, "convolutions work in place where an input dies that is wide enough");
  const int64_t widest = plan.tensors[4].bytes() + plan.tensors[3].bytes();
  check(plan.bytes - plan.tensors[0].bytes() < 1.2 * widest, "and need little more memory than what must be there");
  check_repeats({stage.layers}, rows, columns, "convolutions in place");
}

void test_cancelling() {
  Network network(1, {make_stage(1)}, 2, "");
  const std::vector<float> image = random_floats(64, 1);
  std::vector<float> out(64);
  const ImageView<const float> from = {image.data(), 64, 8, 1};
  const bool done = network.run({0, 1, from, from, 8, 8, {out.data(), 64, 8, 1}, {0, 8, 0, 8}},
                                [](double share) { return share < 0.5; });
  check(!done, "a run that was cancelled says so");
}

void test_layers_that_do_not_fit() {
  std::vector<Layer> layers = make_stage(1);
  layers[3].weight.pop_back();
  try {
    Network network(1, {layers}, 1, "");
    check(false, "a weight of the wrong size is refused");
  } catch (const std::invalid_argument& error) {
    check(std::string(error.what()).find("layer 3") != std::string::npos, "the message names the layer");
  }
}

void test_layout() {
  std::uniform_int_distribution<int> draw(0, 20);
  for (int round = 0; round < 50; ++round) {
    std::vector<Lifetime> tensors;
    for (int i = 0; i < 15; ++i) {
      const int first = draw(random_bits);
      tensors.push_back({64 * draw(random_bits) + draw(random_bits), first, first + draw(random_bits) / 5});
    }
    std::vector<Tie> ties;  // each takes over from the last
    for (int i = 12; i < 15; ++i) {
      tensors[i].first_step = tensors[i - 1].last_step;
      tensors[i].last_step = tensors[i].first_step + 1 + draw(random_bits) / 5;
      ties.push_back({i, i - 1, Arena::kAlignment * draw(random_bits)});
    }
    const Layout layout = lay_out(tensors, ties);
    for (const Tie& tie : ties) {
      check(layout.offsets[tie.other] - layout.offsets[tie.tensor] == tie.distance, "ties keep their distance");
    }
    for (size_t a = 0; a < tensors.size(); ++a) {
      check(layout.offsets[a] % Arena::kAlignment == 0, "offsets are aligned");
      check(layout.offsets[a] + tensors[a].bytes <= layout.bytes, "the arena holds every tensor");
      for (size_t b = 0; b < a; ++b) {
        const bool together =
            tensors[a].first_step <= tensors[b].last_step && tensors[b].first_step <= tensors[a].last_step;
        const bool apart = layout.offsets[a] + tensors[a].bytes <= layout.offsets[b] ||
                           layout.offsets[b] + tensors[b].bytes <= layout.offsets[a];
        const bool tied = a >= 12 && b + 1 == a;
        check(!together || apart || tied || tensors[a].bytes == 0 || tensors[b].bytes == 0,
              "tensors that live together lie apart");
      }
    }
  }
}

}  // namespace
}  // namespace modnas_fast

int main() {
  modnas_fast::test_networks();
  modnas_fast::test_callers_take_turns();
  modnas_fast::test_a_sum_replaces_what_its_shortcut_read();
  modnas_fast::test_outputs_overwrite_inputs();
  modnas_fast::test_rolling_tensors();
  modnas_fast::test_cancelling();
  modnas_fast::test_layers_that_do_not_fit();
  modnas_fast::test_layout();
  return modnas_fast::failures + modnas_fast::test_training() == 0 ? 0 : 1;
}
