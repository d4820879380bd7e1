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

int checked_threads(int threads) {
  if (threads < 0) {
    throw InvalidArgument(concat("threads is ", threads, ", expected >= 1, or 0 for all cores"));
  }
  return threads ? threads : physical_cores();
}

size_t part_of(size_t bytes, int threads) {
  const size_t part = bytes / static_cast<size_t>(threads) / kLineBytes * kLineBytes;
  if (part == 0) {
    throw InvalidArgument(concat("bytes is ", bytes, ", expected at least ", kLineBytes,
                                 " for each of ", threads, " threads"));
  }
  return part;
}

void check_passes(int passes) {
  if (passes < 1) throw InvalidArgument(concat("passes is ", passes, ", expected >= 1"));
}

}  // namespace

BandwidthProbe::BandwidthProbe(const BandwidthOptions& options)
    : part_(part_of(options.bytes, checked_threads(options.threads))),
      buffer_(part_ * static_cast<size_t>(checked_threads(options.threads))),
      pool_(checked_threads(options.threads)) {
  // Each thread touches what it will read, so that on several memory nodes its part is its own
  // node's.
  pool_.run([&](int worker) {
    std::memset(buffer_.data() + part_ * static_cast<size_t>(worker), worker + 1, part_);
  });
}

double BandwidthProbe::pass() {
  std::atomic<uint64_t> sink{0};  // keeps the compiler from dropping the reads
  const auto start = std::chrono::steady_clock::now();
  pool_.run([&](int worker) {
    sink ^= xor_all(buffer_.data() + part_ * static_cast<size_t>(worker), part_);
  });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return static_cast<double>(buffer_.bytes()) / seconds.count();
}

double BandwidthProbe::measure(int passes) {
  check_passes(passes);
  std::vector<double> rates;
  for (int i = 0; i < passes; ++i) rates.push_back(pass());
  std::nth_element(rates.begin(), rates.begin() + static_cast<long>(rates.size() / 2), rates.end());
  return rates[rates.size() / 2];
}

double read_bandwidth(const BandwidthOptions& options) {
  check_passes(options.passes);
  BandwidthProbe probe(options);
  (void)probe.measure(1);
  return probe.measure(options.passes);
}

}  // namespace tgv
