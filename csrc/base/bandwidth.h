// The read bandwidth of this machine's memory: the roof over batch-1 decoding.
#pragma once

#include <cstddef>
#include <memory>

#include "base/huge_buffer.h"
#include "base/thread_pool.h"

namespace tgv {

struct BandwidthOptions {
  int threads = 0;  // 0: physical_cores()
  size_t bytes =
      size_t{512} << 20;  // buffer; well beyond the last-level cache, or the figure is the cache's
  int passes = 7;         // the median of these is the result
};

// Bytes per second that `threads` threads together read from huge-page memory, each its own
// contiguous part. Keeps buffer and threads, so that it can be asked again and again around
// whatever is measured. Throws InvalidArgument or, if the buffer cannot be had, SystemError.
class BandwidthProbe {
 public:
  explicit BandwidthProbe(const BandwidthOptions& options);  // passes is not read
  size_t bytes() const { return buffer_.bytes(); }
  int threads() const { return pool_.threads(); }
  // Median over `passes` (>= 1) passes over the buffer.
  double measure(int passes);

 private:
  double pass();

  size_t part_;  // bytes of one thread
  HugeBuffer buffer_;
  ThreadPool pool_;
};

// One probe: the median of options.passes after one that only warms up.
double read_bandwidth(const BandwidthOptions& options);

}  // namespace tgv
