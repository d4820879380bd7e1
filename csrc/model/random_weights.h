// Weights of any size with no file behind them: for benchmarks of a shape and for tests.
#pragma once

#include <cstdint>
#include <memory>

#include "base/thread_pool.h"
#include "model/weights.h"

namespace tgv::model {

// Every matrix has standard deviation about 1 / sqrt(K), norm weights are 1, biases small; equal
// seeds give equal weights for one architecture and forms. The id names seed and sizes. Throws
// InvalidArgument, SystemError.
std::shared_ptr<const Weights> random_weights(const Architecture& architecture, const Forms& forms,
                                              uint64_t seed, ThreadPool& pool);

}  // namespace tgv::model
