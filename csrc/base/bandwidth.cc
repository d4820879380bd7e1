#include "base/bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/errors.h"
#include "base/huge_buffer.h"
#include "base/thread_pool.h"
#include "base/topology.h"

namespace tgv {

namespace {

// 16-byte vectors exist on every x86-64; two loads a cycle of these outrun any memory a core can
// reach.
using Vector = uint64_t __attribute__((vector_size(16)));

constexpr size_t kLineBytes = 64;

uint64_t xor_all(const uint8_t* data, size_t bytes) {
  const Vector* words = reinterpret_cast<const Vector*>(data);
  Vector a{}, b{}, c{}, d{};
  for (size_t i = 0; i + 4 <= bytes / sizeof(Vector); i += 4) {
    a ^= words[i];
    b ^= words[i + 1];
    c ^= words[i + 2];
    d ^= words[i + 3];
  }
  const Vector all = a ^ b ^ c ^ d;
  return all[0] ^ all[1];
}

}  // namespace

double read_bandwidth(const BandwidthOptions& options) {
  if (options.threads < 0) {
    throw InvalidArgument(
        concat("threads is ", options.threads, ", expected >= 1, or 0 for all cores"));
  }
  if (options.passes < 1)
    throw InvalidArgument(concat("passes is ", options.passes, ", expected >= 1"));
  const int threads = options.threads ? options.threads : physical_cores();
  const size_t part = options.bytes / static_cast<size_t>(threads) / kLineBytes * kLineBytes;
  if (part == 0) {
    throw InvalidArgument(concat("bytes is ", options.bytes, ", expected at least ", kLineBytes,
                                 " for each of ", threads, " threads"));
  }

  HugeBuffer buffer(part * static_cast<size_t>(threads));
  ThreadPool pool(threads);
  // Each thread touches what it will read, so that on several memory nodes its part is its own
  // node's.
  pool.run([&](int worker) { std::memset(buffer.data() + part * worker, worker + 1, part); });

  std::atomic<uint64_t> sink{0};  // keeps the compiler from dropping the reads
  std::vector<double> rates;
  for (int pass = -1; pass < options.passes; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.run([&](int worker) { sink ^= xor_all(buffer.data() + part * worker, part); });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (pass >= 0) rates.push_back(static_cast<double>(buffer.bytes()) / seconds.count());
  }
  std::nth_element(rates.begin(), rates.begin() + static_cast<long>(rates.size() / 2), rates.end());
  return rates[rates.size() / 2];
}

}  // namespace tgv
