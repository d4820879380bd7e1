#include "bindings/kv_pages.h"

#include "base/errors.h"
#include "bindings/tensors.h"

namespace tgv::bindings {

namespace {

namespace py = pybind11;
using cpu::KvKind;

struct KindName {
  const char* name;
  KvKind kind;
  DType dtype;
};

constexpr KindName kKinds[] = {{"f32", KvKind::kF32, DType::kF32},
                               {"f16", KvKind::kF16, DType::kF16},
                               {"bf16", KvKind::kBF16, DType::kBF16},
                               {"int8", KvKind::kI8, DType::kI8}};

const KindName& kind_of(const std::string& name) {
  for (const KindName& each : kKinds) {
    if (name == each.name) return each;
  }
  throw InvalidArgument(
      tgv::concat("kind is '", name.substr(0, 40), "', expected f32, f16, bf16 or int8"));
}

// Buffers know no bfloat16.
TensorView page_view(const py::buffer& buffer, const std::string& name, const KindName& kind) {
  TensorView view = view_of(buffer, name);
  if (kind.kind == KvKind::kBF16 && view.dtype == DType::kF16) view.dtype = DType::kBF16;
  return view;
}

uint16_t* match_scales(Sizes& sizes, const std::optional<py::buffer>& buffer,
                       const std::string& name, const KindName& kind, Access access) {
  const bool wanted = kind.kind == KvKind::kI8;
  if (buffer.has_value() != wanted) {
    throw InvalidArgument(tgv::concat(name, buffer ? " is given" : " is missing", ", expected ",
                                      wanted ? "[NP,H,PS=16] f16" : "none", " for pages of kind ",
                                      kind.name));
  }
  if (!buffer) return nullptr;
  const TensorView view = view_of(*buffer, name);
  sizes.match(name, view, {"NP", "H", cpu::kPageTokens}, {DType::kF16}, access);
  return static_cast<uint16_t*>(view.data);
}

void match_table(const Sizes& sizes, const PageBuffers& buffers, int64_t tokens) {
  const TensorView table = view_of(buffers.block_table, "block_table");
  Sizes().match("block_table", table, {"pages"}, {DType::kI32});
  const int64_t pages = sizes["NP"], positions = buffers.first_position + tokens;
  const int64_t needed = (positions + cpu::kPageTokens - 1) / cpu::kPageTokens;
  if (table.shape[0] < needed) {
    throw InvalidArgument(tgv::concat("block_table has ", table.shape[0],
                                      " pages, expected at least ", needed, " for ", positions,
                                      " positions"));
  }
  const auto* entries = static_cast<const int32_t*>(table.data);
  for (int64_t i = 0; i < needed; ++i) {
    if (entries[i] < 0 || entries[i] >= pages) {
      throw InvalidArgument(tgv::concat("block_table[", i, "] is ", entries[i], ", expected 0..",
                                        pages - 1, " of the ", pages, " pages"));
    }
  }
}

}  // namespace

cpu::KvPages match_pages(Sizes& sizes, const PageBuffers& buffers, int64_t tokens, Access access) {
  const KindName& kind = kind_of(buffers.kind);
  if (buffers.first_position < 0 || buffers.first_position > INT32_MAX) {
    throw InvalidArgument(
        tgv::concat("first_position is ", buffers.first_position, ", expected 0..2^31-1"));
  }
  const TensorView k = page_view(buffers.k_pages, "k_pages", kind);
  const TensorView v = page_view(buffers.v_pages, "v_pages", kind);
  sizes.match("k_pages", k, {"NP", "H", cpu::kPageTokens, "D"}, {kind.dtype}, access);
  sizes.match("v_pages", v, {"NP", "H", cpu::kPageTokens, "D"}, {kind.dtype}, access);
  cpu::KvPages out;
  out.kind = kind.kind;
  out.k = k.data;
  out.v = v.data;
  out.k_scales = match_scales(sizes, buffers.k_scales, "k_scales", kind, access);
  out.v_scales = match_scales(sizes, buffers.v_scales, "v_scales", kind, access);
  const int64_t rows = sizes["H"] * cpu::kPageTokens;
  out.page_stride = rows * sizes["D"] * dtype_bytes(kind.dtype);
  out.scale_stride = rows * dtype_bytes(DType::kF16);
  match_table(sizes, buffers, tokens);
  return out;
}

const int32_t* block_table_of(const PageBuffers& buffers) {
  return static_cast<const int32_t*>(view_of(buffers.block_table, "block_table").data);
}

}  // namespace tgv::bindings
