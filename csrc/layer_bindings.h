// Layers and plans as Python sees them, in each of the extension modules by itself.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <vector>

#include "layer.h"

namespace modnas_fast {

template <std::vector<float> Layer::*kMember>
void set_weights(Layer& layer,
                 const pybind11::array_t<float, pybind11::array::c_style | pybind11::array::forcecast>& weights) {
  (layer.*kMember).assign(weights.data(), weights.data() + weights.size());
}

inline void bind_layers(pybind11::module_& module) {
  namespace py = pybind11;
  py::enum_<Op>(module, "Op", py::module_local())
      .value("convolution", Op::kConvolution)
      .value("separable", Op::kSeparable)
      .value("transposed", Op::kTransposed)
      .value("sub_pixel", Op::kSubPixel)
      .value("bilinear", Op::kBilinear)
      .value("nearest", Op::kNearest)
      .value("output", Op::kOutput);

  py::class_<Layer>(module, "Layer", py::module_local())
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
}

// A line of a plan, with the names of `engine/plan.py`'s `PlanRow`.
template <typename Line>
pybind11::dict plan_row(const Line& line) {
  pybind11::dict row;
  row["name"] = line.name;
  row["kernel"] = line.kernel;
  row["height"] = line.rows;
  row["width"] = line.columns;
  row["channels_in"] = line.channels_in;
  row["channels_out"] = line.channels_out;
  row["macs"] = line.macs;
  row["bytes"] = line.bytes;
  row["seconds"] = line.seconds;
  return row;
}

}  // namespace modnas_fast
