// CUDA graphs that are launched as one, with parts that can be replaced at the cost of those parts alone.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <vector>

namespace modnas_fast::cuda {

using Enqueue = std::function<void(cudaStream_t)>;

class GraphChain {
 public:
  // The parts run one after the other; each is captured from `stream`. Raises as `check`.
  GraphChain(const std::vector<Enqueue>& parts, cudaStream_t stream);
  ~GraphChain();
  GraphChain(const GraphChain&) = delete;
  GraphChain& operator=(const GraphChain&) = delete;

  // The same launches with other arguments. Launches of the graph that still run are not affected.
  void replace(size_t part, const Enqueue& enqueue, cudaStream_t stream);
  void launch(cudaStream_t stream);

 private:
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
  std::vector<cudaGraphNode_t> nodes_;
};

}  // namespace modnas_fast::cuda
