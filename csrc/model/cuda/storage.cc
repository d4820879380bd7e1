#include "model/cuda/storage.h"

#include <algorithm>

#include "model/cuda/kernels.h"

namespace tgv::model {

namespace {

constexpr int64_t kPageTokens = cuda::kPagePositions;
constexpr int64_t kMostBytes = int64_t{1} << 46;  // what an address space can hold

const CudaPageShape& checked(const CudaPageShape& shape) {
  shape.check();
  return shape;
}

// Gives the planes their places; returns the bytes of all.
size_t carve(uint8_t* (&planes)[cuda::kPageCopyMaxPlanes], int32_t*& pairs, int64_t pair_bytes,
             const CudaPageShape& shape, uint8_t* base) {
  DeviceCarver carver(base);
  const auto all = [&](int64_t bytes) {
    return static_cast<size_t>(shape.layers * shape.pages * bytes);
  };
  carver.take(pairs, static_cast<size_t>(pair_bytes));
  for (int i = 0; i < 2; ++i) carver.take(planes[i], all(shape.plane_bytes()));
  if (shape.scales_bytes()) {
    for (int i = 2; i < 4; ++i) carver.take(planes[i], all(shape.scales_bytes()));
  }
  return carver.used();
}

}  // namespace

void CudaPageShape::check() const {
  check_range("pages", pages, 1, INT32_MAX);
  check_range("layers", layers, 1, 1024);
  check_range("heads", heads, 1, 1024);
  check_range("head_dim", head_dim, 8, 256);
  check_range("kind", static_cast<int64_t>(kind), 0, cuda::kKvKinds - 1);
  if (head_dim % 8) {
    throw InvalidArgument(concat("head_dim is ", head_dim, ", expected a multiple of 8"));
  }
  if (page_bytes() > kMostBytes / pages) {
    throw InvalidArgument(concat("a cache of ", pages, " pages of ", page_bytes(),
                                 " bytes is larger than any address space"));
  }
}

int64_t CudaPageShape::plane_bytes() const {
  return heads * kPageTokens * head_dim * cuda::kv_element_bytes(kind);
}

int64_t CudaPageShape::scales_bytes() const {
  return cuda::kv_has_scales(kind) ? heads * kPageTokens * 2 : 0;
}

int64_t CudaPageShape::page_bytes() const { return 2 * layers * (plane_bytes() + scales_bytes()); }

int64_t CudaPageShape::total_bytes() const { return pages * page_bytes(); }

size_t CudaStorage::bytes_for(const CudaPageShape& shape) {
  uint8_t* planes[cuda::kPageCopyMaxPlanes];
  int32_t* pairs;
  return carve(planes, pairs, kMostPairs * 8, checked(shape), nullptr);
}

CudaStorage::CudaStorage(const CudaPageShape& shape)
    : shape_(checked(shape)), memory_(bytes_for(shape_), "the KV cache") {
  carve(planes_, pairs_, kMostPairs * 8, shape_, memory_.data());
}

CudaPages CudaStorage::layer(int64_t index) const {
  const int64_t first = index * shape_.pages;
  CudaPages out;
  out.k = planes_[0] + first * shape_.plane_bytes();
  out.v = planes_[1] + first * shape_.plane_bytes();
  if (shape_.scales_bytes()) {
    out.k_scales = reinterpret_cast<Half*>(planes_[2] + first * shape_.scales_bytes());
    out.v_scales = reinterpret_cast<Half*>(planes_[3] + first * shape_.scales_bytes());
  }
  return out;
}

cuda::PageCopyParams CudaStorage::copy_params() const {
  cuda::PageCopyParams p;
  p.pages = static_cast<int>(shape_.pages);
  p.layers = static_cast<int>(shape_.layers);
  p.planes = shape_.scales_bytes() ? 4 : 2;
  p.list = pairs_;
  for (int i = 0; i < p.planes; ++i) {
    const int64_t bytes = i < 2 ? shape_.plane_bytes() : shape_.scales_bytes();
    p.plane[i] = {planes_[i], bytes, bytes, bytes * shape_.pages};
  }
  return p;
}

void CudaStorage::copy_pages(const int32_t* pairs, int64_t count, const DeviceStream& stream) {
  for (int64_t i = 0; i < 2 * count; ++i) check_range("a page", pairs[i], 0, shape_.pages - 1);
  cuda::PageCopyParams p = copy_params();
  const cuda::Launch launch = stream.launch();
  for (int64_t first = 0; first < count; first += kMostPairs) {
    p.pairs = static_cast<int>(std::min(kMostPairs, count - first));
    upload(pairs_, pairs + 2 * first, static_cast<size_t>(p.pairs) * 8, stream);
    run_kernel(p, launch);
    stream.wait();  // the caller's list, and pairs_ for the next ones
  }
}

void CudaStorage::copy_rows(int64_t to_page, int64_t from_page, int64_t rows,
                            const DeviceStream& stream) {
  check_range("rows", rows, 0, kPageTokens);
  check_range("to_page", to_page, 0, shape_.pages - 1);
  check_range("from_page", from_page, 0, shape_.pages - 1);
  if (rows == 0) return;
  const int32_t pair[2] = {static_cast<int32_t>(from_page), static_cast<int32_t>(to_page)};
  copy_pages(pair, 1, stream);
}

}  // namespace tgv::model
