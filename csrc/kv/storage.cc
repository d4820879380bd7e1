#include "kv/storage.h"

#include <cstring>

#include "base/errors.h"

namespace tgv::kv {

namespace {

constexpr int64_t kMostBytes = int64_t{1} << 46;  // what an address space can hold

void check_range(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) {
    throw InvalidArgument(concat(name, " is ", value, ", expected ", least, "..", most));
  }
}

const Shape& checked(const Shape& shape) {
  shape.check();
  return shape;
}

}  // namespace

void Shape::check() const {
  check_range("pages", pages, 1, INT32_MAX);
  check_range("layers", layers, 1, 1024);
  check_range("heads", heads, 1, 1024);
  check_range("head_dim", head_dim, 4, 256);
  if (head_dim % 4)
    throw InvalidArgument(concat("head_dim is ", head_dim, ", expected a multiple of 4"));
  if (page_bytes() > kMostBytes / pages) {
    throw InvalidArgument(concat("a cache of ", pages, " pages of ", page_bytes(),
                                 " bytes is larger than any address space"));
  }
}

int64_t Shape::page_bytes() const {
  const int64_t row = head_dim * kind_bytes(kind) + (has_scales(kind) ? 2 : 0);
  return 2 * layers * heads * kPageTokens * row;
}

int64_t Shape::total_bytes() const { return pages * page_bytes(); }

Storage::Storage(const Shape& shape)
    : shape_(checked(shape)),
      row_bytes_(shape.head_dim * kind_bytes(shape.kind)),
      plane_bytes_(shape.pages * shape.heads * kPageTokens * row_bytes_),
      scales_bytes_(has_scales(shape.kind) ? shape.pages * shape.heads * kPageTokens * 2 : 0),
      memory_(static_cast<size_t>(shape.total_bytes())) {}

Layer Storage::layer(int64_t index) const {
  uint8_t* plane = memory_.data() + 2 * index * plane_bytes_;
  Layer out{plane, plane + plane_bytes_, nullptr, nullptr};
  if (scales_bytes_) {
    uint8_t* scales = memory_.data() + 2 * (shape_.layers * plane_bytes_ + index * scales_bytes_);
    out.k_scales = reinterpret_cast<uint16_t*>(scales);
    out.v_scales = reinterpret_cast<uint16_t*>(scales + scales_bytes_);
  }
  return out;
}

void Storage::write(int64_t layer_index, int64_t page, int64_t row, const float* k,
                    const float* v) {
  const Layer to = layer(layer_index);
  const int64_t D = shape_.head_dim;
  for (int64_t head = 0; head < shape_.heads; ++head) {
    const int64_t i = row_index(page, head, row);
    store_row(static_cast<uint8_t*>(to.k) + i * row_bytes_, to.k_scales ? to.k_scales + i : nullptr,
              k + head * D, D, shape_.kind);
    store_row(static_cast<uint8_t*>(to.v) + i * row_bytes_, to.v_scales ? to.v_scales + i : nullptr,
              v + head * D, D, shape_.kind);
  }
}

void Storage::read(float* k, float* v, int64_t layer_index, int64_t page, int64_t row) const {
  const Layer from = layer(layer_index);
  const int64_t D = shape_.head_dim;
  for (int64_t head = 0; head < shape_.heads; ++head) {
    const int64_t i = row_index(page, head, row);
    load_row(k + head * D, static_cast<uint8_t*>(from.k) + i * row_bytes_,
             from.k_scales ? from.k_scales + i : nullptr, D, shape_.kind);
    load_row(v + head * D, static_cast<uint8_t*>(from.v) + i * row_bytes_,
             from.v_scales ? from.v_scales + i : nullptr, D, shape_.kind);
  }
}

void Storage::copy_rows(int64_t to_page, int64_t from_page, int64_t rows) {
  // Rows of a head lie together, heads of a page are PS rows apart.
  const auto copy = [&](uint8_t* plane, int64_t bytes_a_row) {
    for (int64_t head = 0; head < shape_.heads; ++head) {
      std::memcpy(plane + row_index(to_page, head, 0) * bytes_a_row,
                  plane + row_index(from_page, head, 0) * bytes_a_row,
                  static_cast<size_t>(rows * bytes_a_row));
    }
  };
  for (int64_t index = 0; index < shape_.layers; ++index) {
    const Layer at = layer(index);
    copy(static_cast<uint8_t*>(at.k), row_bytes_);
    copy(static_cast<uint8_t*>(at.v), row_bytes_);
    if (!at.k_scales) continue;
    copy(reinterpret_cast<uint8_t*>(at.k_scales), 2);
    copy(reinterpret_cast<uint8_t*>(at.v_scales), 2);
  }
}

}  // namespace tgv::kv
