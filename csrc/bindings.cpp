// The Python module modnas_fast._engine: arrays to pointers, and nothing else. Shapes are checked in engine.py, whose
// messages are for people; what is checked here keeps a wrong call from touching foreign memory.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <stdexcept>

#include "check.h"
#include "layer_bindings.h"
#include "network.h"
#include "training.h"

namespace py = pybind11;

namespace modnas_fast {
namespace {

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
  check_size(request.rows, request.columns);
  const int64_t rows = (request.rows + 7) / 8 * 8, columns = (request.columns + 7) / 8 * 8;
  if (top < 0 || left < 0 || to.shape[1] > rows - top || to.shape[2] > columns - left) {
    throw std::invalid_argument("the window leaves the padded image");
  }
  request.window = {top, top + to.shape[1], left, left + to.shape[2]};
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
    lines.push_back(plan_row(line));
  }
  return lines;
}

using Floats = py::array_t<float, py::array::c_style>;

// Training's images: [images, rows, columns, channels] without gaps, float32 or, as uint16, the bits of bfloat16.
Storage storage_of(const py::array& images) {
  if (images.ndim() == 4 && (images.flags() & py::array::c_style)) {
    if (py::isinstance<py::array_t<float>>(images)) return Storage::kFloat32;
    if (py::isinstance<py::array_t<uint16_t>>(images)) return Storage::kBfloat16;
  }
  throw std::invalid_argument("images are [images, rows, columns, channels] without gaps, float32 or uint16");
}

// The size and storage that x and y have in common.
template <typename Arguments>
void set_images(Arguments& arguments, const py::array& x, const py::array& y) {
  arguments.storage = storage_of(x);
  if (storage_of(y) != arguments.storage || !std::equal(x.shape(), x.shape() + 3, y.shape())) {
    throw std::invalid_argument("both images are of one dtype, as many and as large as each other");
  }
  arguments.size = {x.shape(0), x.shape(1), x.shape(2)};
  arguments.x = x.data();
}

// [k, k, channels_in, channels_out] weights and NHWC images, to the arguments of a dense convolution.
ConvolutionArguments dense(const py::array& x, const py::array& y, const Floats& weights) {
  ConvolutionArguments arguments = {};
  set_images(arguments, x, y);
  arguments.channels_in = x.shape(3);
  arguments.channels_out = y.shape(3);
  if (weights.ndim() != 4 || weights.shape(0) != weights.shape(1) || weights.shape(2) != arguments.channels_in ||
      weights.shape(3) != arguments.channels_out) {
    throw std::invalid_argument("weights are [k, k, channels in, channels out]");
  }
  arguments.kernel = weights.shape(0);
  if ((arguments.kernel != 3 && arguments.kernel != 5) || arguments.channels_in % 4 || arguments.channels_out % 4) {
    throw std::invalid_argument("kernels are 3x3 or 5x5, and channels multiples of 4");
  }
  return arguments;
}

void convolve(const py::array& x, const Floats& weights, const py::object& bias, const py::object& rectified, py::array y,
              int threads, const std::string& variant) {
  ConvolutionArguments arguments = dense(x, y, weights);
  const Kernels& kernels = require_kernels(variant.c_str(), arguments.storage);
  Floats values;
  if (!bias.is_none()) {
    values = py::cast<Floats>(bias);
    if (values.size() != arguments.channels_out) throw std::invalid_argument("the bias is [channels out]");
    arguments.bias = values.data();
  }
  py::array mask;
  if (!rectified.is_none()) {
    mask = py::cast<py::array>(rectified);
    if (storage_of(mask) != arguments.storage || !std::equal(mask.shape(), mask.shape() + 4, y.shape())) {
      throw std::invalid_argument("what is rectified is of y's dtype and shape");
    }
    arguments.rectified = mask.data();
  }
  arguments.weights = weights.data();
  arguments.y = y.mutable_data();
  py::gil_scoped_release release;
  convolution(arguments, kernels, threads);
}

void convolve_dweight(const py::array& x, const py::array& dy, Floats dweight, Floats dbias, int threads,
                      const std::string& variant) {
  ConvolutionArguments arguments = dense(x, dy, dweight);
  const Kernels& kernels = require_kernels(variant.c_str(), arguments.storage);
  arguments.y_given = dy.data();
  if (dbias.size() != arguments.channels_out) throw std::invalid_argument("the bias's gradient is [channels out]");
  float *weights = dweight.mutable_data(), *bias = dbias.mutable_data();
  py::gil_scoped_release release;
  convolution_dweight(arguments, weights, bias, kernels, threads);
}

// [k, k, channels] weights.
DepthwiseArguments channelwise(const py::array& x, const py::array& y, const Floats& weights, int64_t dilation) {
  DepthwiseArguments arguments = {};
  set_images(arguments, x, y);
  arguments.channels = x.shape(3);
  arguments.dilation = dilation;
  if (y.shape(3) != arguments.channels || weights.ndim() != 3 || weights.shape(0) != weights.shape(1) ||
      weights.shape(2) != arguments.channels) {
    throw std::invalid_argument("weights are [k, k, channels]");
  }
  arguments.kernel = weights.shape(0);
  if ((arguments.kernel != 3 && arguments.kernel != 5) || dilation < 1 || dilation > 2 || arguments.channels % 4) {
    throw std::invalid_argument("kernels are 3x3 or 5x5, of dilation 1 or 2, and channels multiples of 4");
  }
  return arguments;
}

void convolve_depthwise(const py::array& x, const Floats& weights, int64_t dilation, py::array y, int threads,
                        const std::string& variant) {
  DepthwiseArguments arguments = channelwise(x, y, weights, dilation);
  const Kernels& kernels = require_kernels(variant.c_str(), arguments.storage);
  arguments.weights = weights.data();
  arguments.y = y.mutable_data();
  py::gil_scoped_release release;
  depthwise(arguments, kernels, threads);
}

void convolve_depthwise_dweight(const py::array& x, const py::array& dy, int64_t dilation, Floats dweight, int threads,
                                const std::string& variant) {
  DepthwiseArguments arguments = channelwise(x, dy, dweight, dilation);
  const Kernels& kernels = require_kernels(variant.c_str(), arguments.storage);
  arguments.y_given = dy.data();
  float* to = dweight.mutable_data();
  py::gil_scoped_release release;
  depthwise_dweight(arguments, to, kernels, threads);
}

}  // namespace
}  // namespace modnas_fast

PYBIND11_MODULE(_engine, module) {
  using namespace modnas_fast;
  module.doc() = "The compiled part of modnas_fast.engine.";

  bind_layers(module);

  py::class_<Network>(module, "Network", py::module_local())
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

  // Arrays as they are, since results are written to them; the variant is for tests.
  const auto given = [](const char* name) { return py::arg(name).noconvert(); };
  const py::arg threads("threads");
  const py::arg_v variant("variant", "");
  module.def("convolution", convolve, given("x"), given("weight"), py::arg("bias"), py::arg("rectified"), given("y"),
             threads, variant);
  module.def("convolution_dweight", convolve_dweight, given("x"), given("dy"), given("dweight"), given("dbias"), threads,
             variant);
  module.def("depthwise", convolve_depthwise, given("x"), given("weight"), py::arg("dilation"), given("y"), threads,
             variant);
  module.def("depthwise_dweight", convolve_depthwise_dweight, given("x"), given("dy"), py::arg("dilation"),
             given("dweight"), threads, variant);

  module.def("variants", [] {
    std::vector<std::string> names;
    for (const char* name : {"avx512_bf16", "avx512", "avx2", "portable"}) {
      if (select_kernels(name) != nullptr) names.emplace_back(name);
    }
    return names;
  });
}
