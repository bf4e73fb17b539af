#include "check.h"

#include <stdexcept>
#include <string>

namespace modnas_fast {

namespace {

constexpr int64_t kMostChannels = 4096, kMostSide = int64_t{1} << 20;
constexpr int kMostThreads = 1024, kLargestKernel = 7, kLargestDilation = 4;

void require(bool condition, const std::string& place, const char* what) {
  if (!condition) throw std::invalid_argument(place + what);
}

void check_layer(const Layer& layer) {
  const std::string place = "layer " + layer.name + ": ";
  const bool convolution = layer.op == Op::kConvolution;
  require(layer.channels >= 1 && layer.channels <= kMostChannels, place, "has 1 to 4096 channels");
  require(layer.kernel >= 1 && layer.kernel <= kLargestKernel, place, "its kernel has 1 to 7 rows");
  require(layer.op != Op::kSeparable || layer.kernel % 2 == 1, place, "a depthwise kernel has an odd number of rows");
  require(layer.dilation >= 1 && layer.dilation <= kLargestDilation, place, "its dilation is 1 to 4");
  require(layer.stride == 1 || (layer.stride == 2 && convolution), place, "its stride is 1, or 2 of a convolution");
  require(layer.shortcut < 0 || convolution, place, "only convolutions have shortcuts");
  require(layer.delta >= 0 && layer.delta <= 1, place, "its relaxation is in 0 to 1");
  for (int input : layer.inputs) {
    require(input != 0 || convolution, place, "only convolutions read the image");
  }
}

bool same(const Layer& a, const Layer& b) {
  return a.op == b.op && a.inputs == b.inputs && a.output == b.output && a.channels == b.channels &&
         a.kernel == b.kernel && a.stride == b.stride && a.dilation == b.dilation && a.relu == b.relu &&
         a.shortcut == b.shortcut;
}

}  // namespace

void check_network(int64_t image_channels, const std::vector<std::vector<Layer>>& stages, int threads) {
  require(image_channels >= 1 && image_channels <= kMostChannels, "", "images have 1 to 4096 channels");
  require(threads >= 1 && threads <= kMostThreads, "", "1 to 1024 threads share an image");
  require(!stages.empty(), "", "a network has at least one stage");
  for (const std::vector<Layer>& layers : stages) {
    require(!layers.empty(), "", "a stage has at least one layer");
    require(layers.size() == stages.front().size(), "", "all stages of a network have the same layers");
    for (size_t i = 0; i < layers.size(); ++i) {
      check_layer(layers[i]);
      require(same(layers[i], stages.front()[i]), "", "all stages of a network have the same layers");
    }
  }
}

void check_size(int64_t rows, int64_t columns) {
  require(rows >= 1 && columns >= 1 && rows <= kMostSide && columns <= kMostSide, "",
          "images have 1 to 1048576 rows and columns");
}

}  // namespace modnas_fast
