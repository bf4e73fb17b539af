#include "cuda/graph.h"

#include "cuda/device.h"

namespace modnas_fast::cuda {

namespace {

// What `enqueue` launches, as a graph of its own.
class Captured {
 public:
  Captured(const Enqueue& enqueue, cudaStream_t stream) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "beginning a graph");
    try {
      enqueue(stream);
    } catch (...) {
      cudaStreamEndCapture(stream, &graph_);
      if (graph_ != nullptr) cudaGraphDestroy(graph_);
      throw;
    }
    check(cudaStreamEndCapture(stream, &graph_), "ending a graph");
  }
  ~Captured() { cudaGraphDestroy(graph_); }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;
  cudaGraph_t get() const { return graph_; }

 private:
  cudaGraph_t graph_ = nullptr;
};

}  // namespace

GraphChain::GraphChain(const std::vector<Enqueue>& parts, cudaStream_t stream) {
  try {
    check(cudaGraphCreate(&graph_, 0), "making a graph");
    for (const Enqueue& part : parts) {
      const Captured captured(part, stream);
      cudaGraphNode_t node;
      const size_t before = nodes_.empty() ? 0 : 1;
      check(cudaGraphAddChildGraphNode(&node, graph_, before == 0 ? nullptr : &nodes_.back(), before, captured.get()),
            "adding to a graph");
      nodes_.push_back(node);
    }
    check(cudaGraphInstantiate(&executable_, graph_, 0), "making a graph ready");
  } catch (...) {
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
    throw;
  }
}

GraphChain::~GraphChain() {
  cudaGraphExecDestroy(executable_);
  cudaGraphDestroy(graph_);
}

void GraphChain::replace(size_t part, const Enqueue& enqueue, cudaStream_t stream) {
  const Captured captured(enqueue, stream);
  check(cudaGraphExecChildGraphNodeSetParams(executable_, nodes_[part], captured.get()), "changing a graph");
}

void GraphChain::launch(cudaStream_t stream) { check(cudaGraphLaunch(executable_, stream), "launching a graph"); }

}  // namespace modnas_fast::cuda
