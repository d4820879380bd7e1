#include "engine/prefix_pages.h"

#include <algorithm>

#include "base/errors.h"
#include "engine/submission.h"

namespace tgv::engine {

namespace {

void check_count(const char* name, size_t count, int64_t expected) {
  if (static_cast<int64_t>(count) == expected) return;
  throw InvalidArgument(concat(name, " has ", count, " elements, expected ", expected));
}

std::string describe(const std::string& model_id, const kv::Shape& shape) {
  return concat(kv::kind_name(shape.kind), " [L=", shape.layers, ",H=", shape.heads,
                ",D=", shape.head_dim, "] of model ", model_id.substr(0, 12));
}

bool is_same(const PrefixPages& pages, const CacheIdentity& cache) {
  const kv::Shape& shape = cache.shape;
  return pages.model_id == cache.model_id && pages.kind == shape.kind &&
         pages.layers == shape.layers && pages.heads == shape.heads &&
         pages.head_dim == shape.head_dim;
}

}  // namespace

const uint8_t* PrefixPages::page_numbers(int64_t page) const {
  return numbers.data() + page * shape().carried_bytes();
}

const uint16_t* PrefixPages::page_scales(int64_t page) const {
  return scales.empty() ? nullptr : scales.data() + page * shape().carried_scales();
}

void PrefixPages::check() const {
  if (ids.empty() || positions() % kv::kPageTokens) {
    throw InvalidArgument(concat("ids has ", positions(), " positions, expected a multiple of ",
                                 kv::kPageTokens, " above 0"));
  }
  shape().check();
  const int64_t rows = std::ranges::count(ids, -1);
  check_count("embeddings", embeddings.size(), rows * heads * head_dim);  // C = H * D
  check_count("numbers", numbers.size(), pages() * shape().carried_bytes());
  check_count("scales", scales.size(), pages() * shape().carried_scales());
  kv::check_numbers(numbers.data(), static_cast<int64_t>(numbers.size()) / kv::kind_bytes(kind),
                    kind);
  kv::check_scales(scales.data(), static_cast<int64_t>(scales.size()));
}

std::string why_not(const PrefixPages& pages, const Prompt& prompt, const CacheIdentity& cache) {
  if (!is_same(pages, cache)) {
    return concat("pages is ", describe(pages.model_id, pages.shape()), ", expected ",
                  describe(cache.model_id, cache.shape));
  }
  if (pages.ids.size() > prompt.ids.size() || pages.embeddings.size() > prompt.embeddings.size()) {
    return concat("pages has ", pages.positions(), " positions, the prompt ", prompt.ids.size());
  }
  const auto id = std::ranges::mismatch(pages.ids, prompt.ids).in1;
  if (id != pages.ids.end()) {
    const int64_t at = id - pages.ids.begin();
    return concat("pages has id ", *id, " at position ", at, ", the prompt has ",
                  prompt.ids[static_cast<size_t>(at)]);
  }
  // As bits: 0 and -0 are two keys.
  const auto* rows = reinterpret_cast<const uint8_t*>(pages.embeddings.data());
  const auto* given = reinterpret_cast<const uint8_t*>(prompt.embeddings.data());
  if (!std::equal(rows, rows + pages.embeddings.size() * sizeof(float), given)) {
    return "pages is of other embeddings than the prompt's";
  }
  return {};
}

}  // namespace tgv::engine
