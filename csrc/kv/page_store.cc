#include "kv/page_store.h"

#include "base/errors.h"

namespace tgv::kv {

namespace {

constexpr int64_t kMostBytes = int64_t{1} << 46;  // what an address space can hold
constexpr int64_t kScaleBytes = 2;

int64_t rounded_up(int64_t bytes) { return (bytes + 63) / 64 * 64; }

[[noreturn]] void refuse_to_carry() {
  throw Unsupported(
      "keys and values cannot be carried between caches whose pages lie on a GPU; they can with "
      "device=\"cpu\"");
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

int64_t Shape::plane_bytes() const {
  return heads * kPageTokens * head_dim * kind_bytes(kind);  // a multiple of 64: D is one of 4
}

int64_t Shape::scales_bytes() const {
  return has_scales(kind) ? rounded_up(heads * kPageTokens * kScaleBytes) : 0;
}

int64_t Shape::layer_bytes() const { return 2 * (plane_bytes() + scales_bytes()); }

int64_t Shape::page_bytes() const { return layers * layer_bytes(); }

int64_t Shape::total_bytes() const { return pages * page_bytes(); }

int64_t Shape::carried_bytes() const { return layers * 2 * plane_bytes(); }

int64_t Shape::carried_scales() const {
  return has_scales(kind) ? layers * 2 * heads * kPageTokens : 0;
}

void PageStore::read_page(void* /*numbers*/, uint16_t* /*scales*/, int64_t /*page*/) const {
  refuse_to_carry();
}

void PageStore::write_page(int64_t /*page*/, const void* /*numbers*/, const uint16_t* /*scales*/) {
  refuse_to_carry();
}

}  // namespace tgv::kv
