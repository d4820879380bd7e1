// The pages of a KV cache in the memory of a GPU, as the kernels read them
// (kernels/cuda/kv_pages.h). Knows pages, not who uses them: kv::KVCache's bookkeeping serves these
// as it serves kv::Storage.
//
// Layout    Four planes, K, V and (8-bit kinds) the scales of both: [L, NP, H, PS, D] and
//           [L, NP, H, PS]. A kernel of one layer gets [NP, ...] without gaps.
//
// One block of device memory, as large as it will ever be. Not thread-safe. C++17: nvcc compiles
// it.
#pragma once

#include "kernels/cuda/numbers.h"
#include "kernels/cuda/page_copy.h"
#include "model/cuda/device_memory.h"
#include "model/cuda/sizes.h"

namespace tgv::model {

// One layer: page 0 of each plane.
struct CudaPages {
  void *k = nullptr, *v = nullptr;                // [NP, H, PS, D] kind
  Half *k_scales = nullptr, *v_scales = nullptr;  // [NP, H, PS]; null for kinds without
};

class CudaStorage {
 public:
  // Throws InvalidArgument, CapacityError, SystemError.
  explicit CudaStorage(const CudaPageShape& shape);

  // What pages of this shape would take. Throws InvalidArgument.
  static size_t bytes_for(const CudaPageShape& shape);

  const CudaPageShape& shape() const { return shape_; }
  size_t bytes() const { return memory_.bytes(); }
  CudaPages layer(int64_t index) const;  // 0 <= index < L, not checked

  // pairs [count, 2]: page pairs[i, 1] = page pairs[i, 0] in every layer, in the order of the
  // stream. No page may be written twice, or written and read. Throws InvalidArgument, SystemError.
  void copy_pages(const int32_t* pairs, int64_t count, const DeviceStream& stream);

  // What kv::Storage does: the first `rows` slots of a page, in every layer, with their scales. The
  // rest of the page is copied with them, and holds as little as before.
  void copy_rows(int64_t to_page, int64_t from_page, int64_t rows, const DeviceStream& stream);

 private:
  static constexpr int64_t kMostPairs = 256;  // of one launch
  cuda::PageCopyParams copy_params() const;

  const CudaPageShape shape_;
  uint8_t* planes_[cuda::kPageCopyMaxPlanes] = {};
  int32_t* pairs_ = nullptr;  // [kMostPairs, 2]
  DeviceMemory memory_;
};

}  // namespace tgv::model
