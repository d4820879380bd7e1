// model::Decoder over float32 weights and pages, as the oracle of the decoder on a GPU. The
// interface is C++17, so that nvcc can compile a test of it; cpu_decoder.cc is C++20 like the
// decoder itself (std::span), and host code.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/architecture.h"
#include "model/cuda/step.h"

namespace tgv::test {

// Matrices [N, K], the embedding [V, C] and vectors by the names of model::Entry.
using FloatTensors = std::map<std::string, std::vector<float>>;

class CpuDecoder {
 public:
  // pages: of its cache, named by the block tables of the segments.
  CpuDecoder(const model::Architecture& architecture, const FloatTensors& tensors, int64_t pages);
  ~CpuDecoder();

  // Logits [rows, V].
  std::vector<float> step(const std::vector<model::DeviceSegment>& segments);

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

}  // namespace tgv::test
