#include "bindings/kv.h"

#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "base/match.h"
#include "bindings/bindings.h"
#include "bindings/tensors.h"
#include "kv/kv_cache.h"

namespace tgv::bindings {

namespace {

using kv::KVCache;
using KeyList = std::vector<int64_t>;

std::unique_ptr<KVCache> make_cache(int64_t pages, int64_t layers, int64_t heads, int64_t head_dim,
                                    const std::string& kind, const std::string& model_id,
                                    int hash_bits) {
  const kv::Shape shape{pages, layers, heads, head_dim, kv::parse_kind(kind)};
  return std::make_unique<KVCache>(shape, model_id, hash_bits);
}

kv::Reservation reservation(const KeyList& prompt, int64_t max_new_tokens, int64_t forks) {
  return {prompt, max_new_tokens, forks};
}

std::string admission(const KVCache& cache, const KeyList& prompt, int64_t max_new_tokens,
                      int64_t forks) {
  constexpr const char* names[] = {"now", "later", "never"};
  return names[static_cast<int>(cache.admission(reservation(prompt, max_new_tokens, forks)))];
}

// K and V matched as [T, H, D]; returns T.
int64_t match_rows(const KVCache& cache, const TensorView& k, const TensorView& v, Access access) {
  Sizes sizes;
  sizes.set("H", cache.shape().heads, "the cache");
  sizes.set("D", cache.shape().head_dim, "the cache");
  sizes.match("k", k, {"T", "H", "D"}, {DType::kF32}, access);
  sizes.match("v", v, {"T", "H", "D"}, {DType::kF32}, access);
  return sizes["T"];
}

void write(KVCache& cache, int64_t id, int64_t layer, int64_t first, const py::buffer& k_buffer,
           const py::buffer& v_buffer) {
  const TensorView k = view_of(k_buffer, "k"), v = view_of(v_buffer, "v");
  const int64_t count = match_rows(cache, k, v, Access::kRead);
  cache.write(id, layer, first, count, static_cast<const float*>(k.data),
              static_cast<const float*>(v.data));
}

void read(const KVCache& cache, const py::buffer& k_buffer, const py::buffer& v_buffer, int64_t id,
          int64_t layer, int64_t first) {
  const TensorView k = view_of(k_buffer, "k"), v = view_of(v_buffer, "v");
  const int64_t count = match_rows(cache, k, v, Access::kWrite);
  cache.read(static_cast<float*>(k.data), static_cast<float*>(v.data), id, layer, first, count);
}

std::vector<int32_t> block_table(const KVCache& cache, int64_t id) {
  const auto pages = cache.block_table(id);
  return {pages.begin(), pages.end()};
}

void bind_sequences(py::class_<KVCache>& cache) {
  cache
      .def(
          "reserve",
          [](KVCache& self, const KeyList& prompt, int64_t max_new_tokens, int64_t forks) {
            return self.reserve(reservation(prompt, max_new_tokens, forks));
          },
          py::arg("prompt"), py::arg("max_new_tokens"), py::arg("forks") = 1,
          "A new sequence with room for prompt and answer, beginning with the pages found for the\n"
          "prompt. Raises CapacityError.")
      .def(
          "append", [](KVCache& self, int64_t id, const KeyList& keys) { self.append(id, keys); },
          py::arg("sequence"), py::arg("keys"), "Places for more positions.")
      .def("commit", &KVCache::commit, py::arg("sequence"),
           "All positions appended so far are written.")
      .def("fork", &KVCache::fork, py::arg("sequence"),
           "A sequence that shares all pages. Raises CapacityError.")
      .def("truncate", &KVCache::truncate, py::arg("sequence"), py::arg("length"),
           "Forget positions from `length` on. Raises CapacityError.")
      .def("release", &KVCache::release, py::arg("sequence"), "Give everything back.")
      .def("length", &KVCache::length, py::arg("sequence"), "Positions of the sequence.")
      .def("committed", &KVCache::committed, py::arg("sequence"), "Positions that are written.")
      .def("block_table", &block_table, py::arg("sequence"), "Its pages, in order.");
}

}  // namespace

IntDict counts_dict(const kv::Counts& counts) {
  IntDict out;
  out["pages"] = counts.pages;
  out["free"] = counts.free;
  out["kept"] = counts.kept;
  out["referenced"] = counts.referenced;
  out["indexed"] = counts.indexed;
  out["promised"] = counts.promised;
  out["sequences"] = counts.sequences;
  out["evicted"] = counts.evicted;
  return out;
}

void bind_kv(py::module_& module) {
  // The GIL is kept: a cache belongs to one thread at a time, and the GIL sees to that here.
  py::class_<KVCache> cache(
      module, "KVCache",
      "The paged KV cache, for tests and tools; internal, it may change without notice.\n"
      "Keys are ints, one per position. See docs/kv_cache.md. Raises InvalidArgumentError for an\n"
      "unknown sequence and for anything out of range.");
  cache.def(py::init(&make_cache), py::kw_only(), py::arg("pages"), py::arg("layers"),
            py::arg("heads"), py::arg("head_dim"), py::arg("kind") = "int8",
            py::arg("model_id") = "", py::arg("hash_bits") = 64);
  bind_sequences(cache);
  cache
      .def("admission", &admission, py::arg("prompt"), py::arg("max_new_tokens"),
           py::arg("forks") = 1, "Whether reserve would succeed: 'now', 'later' or 'never'.")
      .def(
          "find_prefix",
          [](const KVCache& self, const KeyList& prompt) { return self.find_prefix(prompt); },
          py::arg("prompt"), "The pages a prompt would begin with now.")
      .def("write", &write, py::arg("sequence"), py::arg("layer"), py::arg("first"), py::arg("k"),
           py::arg("v"), "Write k, v f32 [T, H, D] at positions first .. first+T-1, not committed.")
      .def("read", &read, py::arg("k"), py::arg("v"), py::arg("sequence"), py::arg("layer"),
           py::arg("first"), "Read positions first .. first+T-1 into k, v f32 [T, H, D].")
      .def(
          "counts", [](const KVCache& self) { return counts_dict(self.counts()); },
          "Pages by state, what is promised, sequences, pages evicted so far.")
      .def("references", &KVCache::references, py::arg("page"), "Block tables a page is in.")
      .def("is_indexed", &KVCache::is_indexed, py::arg("page"), "Whether a prefix can find a page.")
      .def("check", &KVCache::check, "Raises TinyGPTVError if the cache broke one of its rules.");
}

}  // namespace tgv::bindings
