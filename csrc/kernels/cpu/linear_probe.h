// What the matrices of a decoder step cost: the packed weights of `layers` layers lie end to end in
// huge-page memory and are multiplied in the phases of one ThreadPool::run_phases.
//
// Per layer: round x, [Wqkv | W1] claimed as one run; round both inputs, [Wo | W2] claimed as one
// run. Nothing else: what attention, norms and sampling cost is not in here.
#pragma once

#include <cstdint>
#include <vector>

#include "base/isa.h"
#include "kernels/cpu/linear.h"

namespace tgv::cpu {

struct LinearProbeOptions {
  WeightKind kind = WeightKind::kInt4;
  int64_t group_size = 32;  // of int4
  bool symmetric = true;    // of int4
  int64_t width = 2560;     // C; Wqkv [3C,C], W1 [4C,C], Wo [C,C], W2 [C,4C]
  int layers = 32;
  std::vector<int64_t> tokens = {1};  // measured in turn
  int rounds = 9;                     // of every number of tokens
  int window = 32;                    // layers of a round; each round takes the next ones
  int threads = 2;
  Isa isa = Isa::kPortable;
};

// Short windows are for machines that others use: some of them nobody disturbs.
struct LinearProbeRound {
  int64_t tokens = 0;
  double seconds = 0;      // of one window
  double read_before = 0;  // bytes per second: the windows before and after it plainly read by as
  double read_after = 0;   // many threads of the same pool, directly before and after
  int64_t bytes = 0;       // packed weights of the window
  double operations = 0;   // two per weight and token, without padding
};

// Weights and inputs are random. Throws InvalidArgument, Unsupported, SystemError.
std::vector<LinearProbeRound> linear_probe(const LinearProbeOptions& options);

}  // namespace tgv::cpu
