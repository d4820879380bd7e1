#include "kv/storage.h"

#include <algorithm>
#include <cstring>

#include "base/errors.h"

namespace tgv::kv {

namespace {

constexpr int64_t kScaleBytes = 2;

const Shape& checked(const Shape& shape) {
  shape.check();
  return shape;
}

}  // namespace

Storage::Storage(const Shape& shape)
    : shape_(checked(shape)), memory_(static_cast<size_t>(shape.total_bytes())) {}

cpu::KvPages Storage::layer(int64_t index) const {
  uint8_t* const base = memory_.data() + index * shape_.layer_bytes();
  cpu::KvPages out;
  out.kind = shape_.kind;
  out.k = base;
  out.v = base + shape_.plane_bytes();
  out.page_stride = shape_.page_bytes();
  if (has_scales(shape_.kind)) {
    uint8_t* const scales = base + 2 * shape_.plane_bytes();
    out.k_scales = reinterpret_cast<uint16_t*>(scales);
    out.v_scales = reinterpret_cast<uint16_t*>(scales + shape_.scales_bytes());
    out.scale_stride = shape_.page_bytes();
  }
  return out;
}

Storage::Row Storage::row_at(int64_t layer_index, int64_t page, int64_t head, int64_t row) const {
  const int64_t index = head * kPageTokens + row;
  const int64_t offset = index * shape_.head_dim * kind_bytes(shape_.kind);
  uint8_t* const k =
      memory_.data() + page * shape_.page_bytes() + layer_index * shape_.layer_bytes();
  Row out{k + offset, k + shape_.plane_bytes() + offset, nullptr, nullptr};
  if (has_scales(shape_.kind)) {
    uint8_t* const scales = k + 2 * shape_.plane_bytes() + index * kScaleBytes;
    out.k_scale = reinterpret_cast<uint16_t*>(scales);
    out.v_scale = reinterpret_cast<uint16_t*>(scales + shape_.scales_bytes());
  }
  return out;
}

void Storage::write(int64_t layer_index, int64_t page, int64_t row, const float* k,
                    const float* v) {
  const int64_t D = shape_.head_dim;
  for (int64_t head = 0; head < shape_.heads; ++head) {
    const Row to = row_at(layer_index, page, head, row);
    store_row(to.k, to.k_scale, k + head * D, D, shape_.kind);
    store_row(to.v, to.v_scale, v + head * D, D, shape_.kind);
  }
}

void Storage::read(float* k, float* v, int64_t layer_index, int64_t page, int64_t row) const {
  const int64_t D = shape_.head_dim;
  for (int64_t head = 0; head < shape_.heads; ++head) {
    const Row from = row_at(layer_index, page, head, row);
    load_row(k + head * D, from.k, from.k_scale, D, shape_.kind);
    load_row(v + head * D, from.v, from.v_scale, D, shape_.kind);
  }
}

// K and V of a layer lie together; their scales do not.
void Storage::read_page(void* numbers, uint16_t* scales, int64_t page) const {
  const auto bytes = static_cast<size_t>(2 * shape_.plane_bytes());
  const int64_t count = shape_.heads * kPageTokens;
  auto* to = static_cast<uint8_t*>(numbers);
  for (int64_t index = 0; index < shape_.layers; ++index, to += bytes) {
    const Row from = row_at(index, page, 0, 0);
    std::memcpy(to, from.k, bytes);
    if (!has_scales(shape_.kind)) continue;
    scales = std::copy_n(from.k_scale, count, scales);
    scales = std::copy_n(from.v_scale, count, scales);
  }
}

void Storage::write_page(int64_t page, const void* numbers, const uint16_t* scales) {
  const auto bytes = static_cast<size_t>(2 * shape_.plane_bytes());
  const int64_t count = shape_.heads * kPageTokens;
  const auto* from = static_cast<const uint8_t*>(numbers);
  for (int64_t index = 0; index < shape_.layers; ++index, from += bytes) {
    const Row to = row_at(index, page, 0, 0);
    std::memcpy(to.k, from, bytes);
    if (!has_scales(shape_.kind)) continue;
    std::copy_n(scales, count, to.k_scale);
    std::copy_n(scales + count, count, to.v_scale);
    scales += 2 * count;
  }
}

void Storage::copy_rows(int64_t to_page, int64_t from_page, int64_t rows) {
  // Rows of a head lie together.
  const auto bytes = static_cast<size_t>(rows * shape_.head_dim * kind_bytes(shape_.kind));
  const auto scale_bytes = static_cast<size_t>(rows * kScaleBytes);
  for (int64_t index = 0; index < shape_.layers; ++index) {
    for (int64_t head = 0; head < shape_.heads; ++head) {
      const Row to = row_at(index, to_page, head, 0), from = row_at(index, from_page, head, 0);
      std::memcpy(to.k, from.k, bytes);
      std::memcpy(to.v, from.v, bytes);
      if (!has_scales(shape_.kind)) continue;
      std::memcpy(to.k_scale, from.k_scale, scale_bytes);
      std::memcpy(to.v_scale, from.v_scale, scale_bytes);
    }
  }
}

}  // namespace tgv::kv
