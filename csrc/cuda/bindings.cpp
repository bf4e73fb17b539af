// The Python module modnas_fast._engine_cuda: images to pointers, and nothing else. What is checked here keeps a wrong
// call from touching foreign memory; messages for people are in engine/cuda.py.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <stdexcept>

#include "check.h"
#include "cuda/array.h"
#include "cuda/network.h"
#include "layer_bindings.h"

namespace py = pybind11;

namespace modnas_fast::cuda {
namespace {

constexpr int64_t kMostImages = 65535, kMostPixels = int64_t{1} << 30;
using Floats = py::array_t<float, py::array::c_style>;
using FreeLock = py::call_guard<py::gil_scoped_release>;

void check_image(const Image& image) {
  check_size(image.rows, image.columns);
  if (image.data == nullptr || image.images < 1 || image.images > kMostImages || image.channels < 1 ||
      reinterpret_cast<uintptr_t>(image.data) % sizeof(float) != 0 ||
      image.images * image.rows * image.columns > kMostPixels) {
    throw std::invalid_argument("a launch takes 1 to 65535 aligned images of at most 2^30 pixels together");
  }
}

Image make_image(uintptr_t pointer, const std::array<int64_t, 4>& shape, const std::array<int64_t, 4>& strides) {
  Image image = {reinterpret_cast<float*>(pointer), shape[0], shape[1], shape[2], shape[3], {}};
  std::copy(strides.begin(), strides.end(), image.strides);
  return image;
}

// [begin, end) of what an image's values lie in.
std::pair<const float*, const float*> extent(const Image& image) {
  const int64_t sizes[4] = {image.images, image.channels, image.rows, image.columns};
  const float *begin = image.data, *end = image.data + 1;
  for (int axis = 0; axis < 4; ++axis) {
    const int64_t reach = (sizes[axis] - 1) * image.strides[axis];
    (reach < 0 ? begin : end) += reach;
  }
  return {begin, end};
}

bool overlaps(const Image& a, const Image& b) {
  const auto [a_begin, a_end] = extent(a);
  const auto [b_begin, b_end] = extent(b);
  return a_begin < b_end && b_begin < a_end;
}

// The images [first, last) of it, and of them the rows and columns.
Image window(const Image& image, int64_t first, int64_t last, int64_t top, int64_t bottom, int64_t left,
             int64_t right) {
  if (first < 0 || first >= last || last > image.images || top < 0 || top >= bottom || bottom > image.rows ||
      left < 0 || left >= right || right > image.columns) {
    throw std::invalid_argument("the window leaves the image");
  }
  Image part = image;
  part.data += first * image.strides[0] + top * image.strides[2] + left * image.strides[3];
  part.images = last - first;
  part.rows = bottom - top;
  part.columns = right - left;
  return part;
}

Element element_of(const std::string& dtype) {
  if (dtype == "float32") return Element::kFloat32;
  if (dtype == "float16") return Element::kFloat16;
  if (dtype == "bfloat16") return Element::kBfloat16;
  throw std::invalid_argument("elements are float32, float16 or bfloat16");
}

std::unique_ptr<Network> make_network(int64_t image_channels, const std::vector<std::vector<Layer>>& stages, int device,
                                      const std::string& dtype) {
  const Element element = element_of(dtype);
  py::gil_scoped_release release;
  const std::vector<DeviceFacts> devices = list_devices();
  if (device < 0 || device >= static_cast<int>(devices.size())) throw std::invalid_argument("there is no such device");
  const CurrentDevice current(device);
  return std::make_unique<Network>(image_channels, stages, device, devices[device].capability, element);
}

void run(Network& network, size_t first, size_t last, const Image& x, const Image& y, const Image& out, int64_t top,
         int64_t left, int64_t stream) {
  for (const Image* image : {&x, &y, &out}) {
    check_image(*image);
    if (image->channels != network.image_channels() || image->images != y.images) {
      throw std::invalid_argument("images differ in number or channels");
    }
  }
  if (x.rows != y.rows || x.columns != y.columns) throw std::invalid_argument("x and y differ in shape");
  if (first >= last || last > network.stages()) throw std::invalid_argument("there are no such stages");
  const int64_t rows = (y.rows + 7) / 8 * 8, columns = (y.columns + 7) / 8 * 8;
  if (top < 0 || left < 0 || top >= rows || left >= columns || out.rows > rows - top || out.columns > columns - left) {
    throw std::invalid_argument("the window leaves the padded image");
  }
  network.run({first, last, x, y, out, top, left}, stream_of(stream));
}

Size size_of(int64_t images, int64_t rows, int64_t columns) {
  check_size(rows, columns);
  if (images < 1 || images > kMostImages) throw std::invalid_argument("a launch takes 1 to 65535 images");
  return {images, rows, columns};
}

std::vector<py::dict> report(Network& network, int64_t images, int64_t rows, int64_t columns, bool timed) {
  std::vector<StepReport> steps;
  {
    const Size size = size_of(images, rows, columns);
    py::gil_scoped_release release;
    steps = network.report(size, timed);
  }
  std::vector<py::dict> lines;
  for (const StepReport& step : steps) {
    lines.push_back(plan_row(step));
    lines.back()["traffic"] = step.traffic;
  }
  return lines;
}

void check_copy(const Array& array, const Floats& host) {
  const Image& image = array.image();
  if (host.ndim() != 4 || host.shape(0) != image.images || host.shape(1) != image.channels ||
      host.shape(2) != image.rows || host.shape(3) != image.columns) {
    throw std::invalid_argument("the arrays differ in shape");
  }
}

void upload(const Array& array, const Floats& host, int64_t stream) {
  check_copy(array, host);
  const CurrentDevice current(array.device());
  check(cudaMemcpyAsync(array.image().data, host.data(), host.nbytes(), cudaMemcpyHostToDevice, stream_of(stream)),
        "copying to the device");
}

// Returns when the copy is there.
void download(const Array& array, Floats host, int64_t stream) {
  check_copy(array, host);
  void* to = host.mutable_data();
  const size_t bytes = host.nbytes();
  py::gil_scoped_release release;
  const CurrentDevice current(array.device());
  check(cudaMemcpyAsync(to, array.image().data, bytes, cudaMemcpyDeviceToHost, stream_of(stream)),
        "copying from the device");
  check(cudaStreamSynchronize(stream_of(stream)), "copying from the device");
}

void copy(const Network& network, const Image& from, const Image& to, int64_t stream) {
  check_image(from);
  check_image(to);
  if (from.images != to.images || from.channels != to.channels) throw std::invalid_argument("images differ in number");
  const CurrentDevice current(network.device());
  check(copy_image(from, to, stream_of(stream)), "copying an image");
}

}  // namespace
}  // namespace modnas_fast::cuda

PYBIND11_MODULE(_engine_cuda, module) {
  using namespace modnas_fast;
  using namespace modnas_fast::cuda;
  module.doc() = "The part of modnas_fast.engine that is compiled for CUDA.";
  bind_layers(module);
  py::register_local_exception<CudaError>(module, "CudaError", PyExc_RuntimeError);

  py::class_<Image>(module, "Image", py::module_local(), "A strided float32 image [N, C, H, W] on a device, not owned.")
      .def(py::init(&make_image))
      .def_property_readonly(
          "shape", [](const Image& i) { return py::make_tuple(i.images, i.channels, i.rows, i.columns); })
      .def("overlaps", &overlaps)
      .def("window", &window);
  module.def("image_in", [](const py::capsule& capsule, int device) { return image_in(capsule, device); });

  py::class_<Array>(module, "Array", py::module_local(), "A contiguous float32 array [N, C, H, W] on a CUDA device.")
      .def(py::init([](int device, std::array<int64_t, 4> shape) {
        return std::make_unique<Array>(device, shape[0], shape[1], shape[2], shape[3]);
      }))
      .def_property_readonly("image", &Array::image)
      .def_property_readonly(
          "shape",
          [](const Array& a) {
            const Image& image = a.image();
            return py::make_tuple(image.images, image.channels, image.rows, image.columns);
          })
      .def("made_on", [](Array& array, int64_t stream) { array.made_on(stream_of(stream)); })
      .def("upload", upload, py::arg("host").noconvert(), py::arg("stream"))
      .def("download", download, py::arg("host").noconvert(), py::arg("stream"))
      .def(
          "__dlpack__",
          [](const Array& array, const py::object& stream, const py::kwargs&) {
            return array.dlpack(stream.is_none() ? 1 : py::cast<int64_t>(stream));
          },
          py::kw_only(), py::arg("stream") = py::none())
      .def("__dlpack_device__", [](const Array& array) { return py::make_tuple(2, array.device()); });

  py::class_<Network>(module, "Network", py::module_local())
      .def(py::init(&make_network))
      .def("run", run, FreeLock())
      .def(
          "settle", [](Network& network, int64_t stream) { return network.settle(stream_of(stream)); }, FreeLock())
      .def(
          "wait", [](const Network& network, int64_t stream) { network.wait(stream_of(stream)); }, FreeLock())
      .def("copy", copy, FreeLock())
      .def("report", report)
      .def("working_bytes",
           [](const Network& network, int64_t images, int64_t rows, int64_t columns) {
             return network.working_bytes(size_of(images, rows, columns));
           })
      .def("available_bytes", &Network::available_bytes, FreeLock())
      .def("release", &Network::release, FreeLock())
      .def_property_readonly("weight_bytes", &Network::weight_bytes)
      .def_property_readonly("graphs_made", &Network::graphs_made)
      .def_property_readonly("stream",
                             [](const Network& network) { return reinterpret_cast<int64_t>(network.stream()); });

  module.def("devices", [] {
    std::vector<std::tuple<std::string, int, int64_t>> devices;
    for (const DeviceFacts& facts : list_devices()) devices.emplace_back(facts.name, facts.capability, facts.bytes);
    return devices;
  });
}
