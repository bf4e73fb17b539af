// The Python module modnas_fast._engine: arrays to pointers, and nothing else. Shapes are checked in engine.py, whose
// messages are for people; what is checked here keeps a wrong call from touching foreign memory.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <stdexcept>

#include "network.h"

namespace py = pybind11;

namespace modnas_fast {
namespace {

using Weights = py::array_t<float, py::array::c_style | py::array::forcecast>;

std::vector<float> to_vector(const Weights& weights) {
  return std::vector<float>(weights.data(), weights.data() + weights.size());
}

template <typename Value>
ImageView<Value> view(Value* data, const py::buffer_info& info) {
  for (int axis = 0; axis < 3; ++axis) {
    if (info.strides[axis] % static_cast<py::ssize_t>(sizeof(float)) != 0) {
      throw std::invalid_argument("strides must be whole floats");
    }
  }
  const auto floats = [&](int axis) { return static_cast<int64_t>(info.strides[axis]) / int64_t{sizeof(float)}; };
  return {data, floats(0), floats(1), floats(2)};
}

py::buffer_info image_info(const py::array& image, int64_t channels, bool writable) {
  const py::buffer_info info = image.request(writable);
  if (info.ndim != 3 || info.format != py::format_descriptor<float>::format() || info.shape[0] != channels ||
      info.shape[1] < 1 || info.shape[2] < 1) {
    throw std::invalid_argument("images are float32 [channels, height, width]");
  }
  return py::buffer_info(info.ptr, info.itemsize, info.format, info.ndim, info.shape, info.strides);
}

// Runs stages [first, last) on x and y, [C, H, W], and writes the result's rows and columns from (top, left) on to
// `out`, [C, rows, columns]. False: `progress` cancelled it.
bool run(Network& network, size_t first, size_t last, const py::array& x, const py::array& y, const py::array& out,
         int64_t top, int64_t left, const py::object& progress) {
  const py::buffer_info from_x = image_info(x, network.image_channels(), false);
  const py::buffer_info from_y = image_info(y, network.image_channels(), false);
  const py::buffer_info to = image_info(out, network.image_channels(), true);
  if (from_x.shape != from_y.shape) throw std::invalid_argument("x and y differ in shape");
  if (first >= last || last > network.stages()) throw std::invalid_argument("there are no such stages");
  RunRequest request;
  request.first_stage = first;
  request.last_stage = last;
  request.x = view(static_cast<const float*>(from_x.ptr), from_x);
  request.y = view(static_cast<const float*>(from_y.ptr), from_y);
  request.rows = from_y.shape[1];
  request.columns = from_y.shape[2];
  request.out = view(static_cast<float*>(to.ptr), to);
  request.window = {top, top + to.shape[1], left, left + to.shape[2]};
  const int64_t rows = (request.rows + 7) / 8 * 8, columns = (request.columns + 7) / 8 * 8;
  if (top < 0 || left < 0 || request.window.row_end > rows || request.window.column_end > columns) {
    throw std::invalid_argument("the window leaves the padded image");
  }
  Progress call;
  std::unique_ptr<py::error_already_set> held;  // what `progress` raised
  if (!progress.is_none()) {
    call = [&](double share) {
      py::gil_scoped_acquire gil;
      try {
        const py::object answer = progress(share);
        return answer.is_none() || py::cast<bool>(answer);
      } catch (py::error_already_set& caught) {
        held = std::make_unique<py::error_already_set>(std::move(caught));
        return false;
      }
    };
  }
  bool done;
  {
    py::gil_scoped_release release;
    done = network.run(request, call);
  }
  if (held) throw std::move(*held);
  return done;
}

std::vector<py::dict> report(Network& network, int64_t rows, int64_t columns) {
  std::vector<py::dict> lines;
  for (const LayerReport& line : network.report(rows, columns)) {
    py::dict entry;
    entry["name"] = line.name;
    entry["kernel"] = line.kernel;
    entry["height"] = line.rows;
    entry["width"] = line.columns;
    entry["channels_in"] = line.channels_in;
    entry["channels_out"] = line.channels_out;
    entry["macs"] = line.macs;
    entry["bytes"] = line.bytes;
    entry["seconds"] = line.seconds;
    lines.push_back(entry);
  }
  return lines;
}

template <std::vector<float> Layer::*kMember>
void set_weights(Layer& layer, const Weights& weights) {
  layer.*kMember = to_vector(weights);
}

}  // namespace
}  // namespace modnas_fast

PYBIND11_MODULE(_engine, module) {
  using namespace modnas_fast;
  module.doc() = "The compiled part of modnas_fast.engine.";

  py::enum_<Op>(module, "Op")
      .value("convolution", Op::kConvolution)
      .value("separable", Op::kSeparable)
      .value("transposed", Op::kTransposed)
      .value("sub_pixel", Op::kSubPixel)
      .value("bilinear", Op::kBilinear)
      .value("nearest", Op::kNearest)
      .value("output", Op::kOutput);

  py::class_<Layer>(module, "Layer")
      .def(py::init<>())
      .def_readwrite("name", &Layer::name)
      .def_readwrite("op", &Layer::op)
      .def_readwrite("inputs", &Layer::inputs)
      .def_readwrite("output", &Layer::output)
      .def_readwrite("channels", &Layer::channels)
      .def_readwrite("kernel", &Layer::kernel)
      .def_readwrite("stride", &Layer::stride)
      .def_readwrite("dilation", &Layer::dilation)
      .def_readwrite("relu", &Layer::relu)
      .def_readwrite("shortcut", &Layer::shortcut)
      .def_readwrite("delta", &Layer::delta)
      .def("set_weight", set_weights<&Layer::weight>)
      .def("set_bias", set_weights<&Layer::bias>)
      .def("set_depthwise_weight", set_weights<&Layer::depthwise_weight>)
      .def("set_depthwise_bias", set_weights<&Layer::depthwise_bias>)
      .def("set_shortcut_weight", set_weights<&Layer::shortcut_weight>)
      .def("set_shortcut_bias", set_weights<&Layer::shortcut_bias>);

  py::class_<Network>(module, "Network")
      .def(py::init([](int64_t image_channels, const std::vector<std::vector<Layer>>& stages, int threads,
                       const std::string& variant, bool bfloat16) {
        return std::make_unique<Network>(image_channels, stages, threads, variant,
                                         bfloat16 ? Storage::kBfloat16 : Storage::kFloat32);
      }))
      .def("run", run)
      .def("report", report)
      .def("working_bytes", &Network::working_bytes)
      .def("release", &Network::release, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("weight_bytes", &Network::weight_bytes)
      .def_property_readonly("variant", &Network::variant)
      .def_property_readonly("threads", &Network::threads);

  module.def("variants", [] {
    std::vector<std::string> names;
    for (const char* name : {"avx512_bf16", "avx512", "avx2", "portable"}) {
      if (select_kernels(name) != nullptr) names.emplace_back(name);
    }
    return names;
  });
}
