// The read bandwidth of this machine's memory: the roof over batch-1 decoding.
#pragma once

#include <cstddef>

namespace tgv {

struct BandwidthOptions {
  int threads = 0;  // 0: physical_cores()
  size_t bytes =
      size_t{512} << 20;  // buffer; well beyond the last-level cache, or the figure is the cache's
  int passes = 7;         // the median of these is the result
};

// Bytes per second that `threads` threads together read from huge-page memory, each its own
// contiguous part. Median of several passes after one that only warms up. Throws InvalidArgument
// or, if the buffer cannot be had, SystemError.
double read_bandwidth(const BandwidthOptions& options);

}  // namespace tgv
