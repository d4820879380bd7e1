#include <pybind11/stl.h>

#include "base/errors.h"
#include "base/isa.h"
#include "bindings/bindings.h"
#include "bindings/caller.h"
#include "bindings/kv_pages.h"
#include "bindings/tensors.h"
#include "kernels/cpu/overlap.h"
#include "kernels/cpu/paged_attention.h"
#include "kernels/cpu/qkv_append.h"

namespace tgv::bindings {

namespace {

using Optional = std::optional<py::buffer>;

int64_t bytes_of(const TensorView& view) { return view.elements() * dtype_bytes(view.dtype); }

// Page memory that is written must not be written twice, nor read as something else.
void refuse_overlap(const char* a_name, const TensorView& a, const char* b_name,
                    const TensorView& b) {
  if (cpu::overlap(a.data, bytes_of(a), b.data, bytes_of(b))) {
    throw InvalidArgument(tgv::concat(a_name, " is memory of ", b_name, ", expected memory apart"));
  }
}

void paged_attention(const py::buffer& out, const py::buffer& q, const py::buffer& k_pages,
                     const py::buffer& v_pages, const Optional& k_scales, const Optional& v_scales,
                     const py::buffer& block_table, int64_t first_position, double scale,
                     const std::string& kind, int threads, const std::string& isa) {
  const PageBuffers buffers{k_pages,     v_pages, k_scales,      v_scales,
                            block_table, kind,    first_position};
  Sizes sizes;
  const TensorView query = view_of(q, "q"), result = view_of(out, "out");
  sizes.match("q", query, {"T", "H", "D"}, {DType::kF32});
  cpu::PagedAttentionParams p;
  p.pages = match_pages(sizes, buffers, sizes["T"], Access::kRead);
  sizes.match("out", result, {"T", "H", "D"}, {DType::kF32}, Access::kWrite);
  refuse_overlap("out", result, "k_pages", view_of(k_pages, "k_pages"));
  refuse_overlap("out", result, "v_pages", view_of(v_pages, "v_pages"));
  p.heads = sizes["H"];
  p.head_dim = sizes["D"];
  p.tokens = sizes["T"];
  p.first_position = first_position;
  p.scale = static_cast<float>(scale);
  p.y = static_cast<float*>(result.data);
  p.q = static_cast<const float*>(query.data);
  p.block_table = block_table_of(buffers);
  const Isa chosen = choose_isa(isa);

  py::gil_scoped_release release;
  ThreadPool& pool = caller().pool(threads);
  // Judged before the scratch of an impossible width is asked for.
  const size_t scratch_bytes =
      cpu::paged_attention_why_not(p) ? 64 : cpu::paged_attention_scratch_bytes(p.head_dim);
  void* const scratch = caller().scratch(scratch_bytes * static_cast<size_t>(threads));
  cpu::paged_attention(p, pool, scratch, chosen);
}

const float* match_numbers(Sizes& sizes, const char* name, const Optional& buffer,
                           const std::vector<Dim>& dims) {
  if (!buffer) return nullptr;
  const TensorView view = view_of(*buffer, name);
  sizes.match(name, view, dims, {DType::kF32});
  return static_cast<const float*>(view.data);
}

void match_rotary(Sizes& sizes, cpu::QkvAppendParams& p, const py::buffer& cos,
                  const py::buffer& sin) {
  p.cos = match_numbers(sizes, "cos", cos, {"positions", "R/2"});
  p.sin = match_numbers(sizes, "sin", sin, {"positions", "R/2"});
  p.rotary_dims = 2 * sizes["R/2"];
  if (p.rotary_dims && sizes["positions"] < p.first_position + p.tokens) {
    throw InvalidArgument(tgv::concat("cos and sin have ", sizes["positions"],
                                      " positions, expected at least ",
                                      p.first_position + p.tokens));
  }
}

void qkv_append(const py::buffer& q, const py::buffer& k_pages, const py::buffer& v_pages,
                const Optional& k_scales, const Optional& v_scales, const py::buffer& qkv,
                const py::buffer& block_table, int64_t first_position, const py::buffer& cos,
                const py::buffer& sin, const Optional& q_weight, const Optional& q_bias,
                const Optional& k_weight, const Optional& k_bias, double eps,
                const std::string& kind, int threads, const std::string& isa) {
  const PageBuffers buffers{k_pages,     v_pages, k_scales,      v_scales,
                            block_table, kind,    first_position};
  Sizes sizes;
  const TensorView source = view_of(qkv, "qkv"), result = view_of(q, "out");
  sizes.match("qkv", source, {"T", "H", 3, "D"}, {DType::kF32});
  cpu::QkvAppendParams p;
  p.pages = match_pages(sizes, buffers, sizes["T"], Access::kWrite);
  sizes.match("out", result, {"T", "H", "D"}, {DType::kF32}, Access::kWrite);
  const TensorView k = view_of(k_pages, "k_pages"), v = view_of(v_pages, "v_pages");
  refuse_overlap("v_pages", v, "k_pages", k);
  for (const TensorView* pages : {&k, &v}) {
    refuse_overlap("out", result, pages == &k ? "k_pages" : "v_pages", *pages);
    refuse_overlap("qkv", source, pages == &k ? "k_pages" : "v_pages", *pages);
  }
  p.heads = sizes["H"];
  p.head_dim = sizes["D"];
  p.tokens = sizes["T"];
  p.first_position = first_position;
  p.qkv = static_cast<const float*>(source.data);
  p.q = static_cast<float*>(result.data);
  p.block_table = block_table_of(buffers);
  p.q_weight = match_numbers(sizes, "q_weight", q_weight, {"D"});
  p.q_bias = match_numbers(sizes, "q_bias", q_bias, {"D"});
  p.k_weight = match_numbers(sizes, "k_weight", k_weight, {"D"});
  p.k_bias = match_numbers(sizes, "k_bias", k_bias, {"D"});
  p.eps = static_cast<float>(eps);
  match_rotary(sizes, p, cos, sin);
  const Isa chosen = choose_isa(isa);

  py::gil_scoped_release release;
  cpu::qkv_append(p, caller().pool(threads), chosen);
}

}  // namespace

void bind_attention(py::module_& module) {
  module.def(
      "paged_attention", &paged_attention, py::arg("out"), py::arg("q"), py::arg("k_pages"),
      py::arg("v_pages"), py::arg("k_scales"), py::arg("v_scales"), py::arg("block_table"),
      py::arg("first_position"), py::arg("scale"), py::arg("kind"), py::arg("threads") = 1,
      py::arg("isa") = "",
      "out f32 [T, H, D] = causal attention of q f32 [T, H, D] at positions first_position + t\n"
      "over pages [NP, H, 16, D] of a kind ('f32', 'f16', 'bf16' as the bits of float16, 'int8'\n"
      "with scales f16 [NP, H, 16]) in the order of block_table i32. Raises\n"
      "InvalidArgumentError, UnsupportedError.");
  module.def("qkv_append", &qkv_append, py::arg("out"), py::arg("k_pages"), py::arg("v_pages"),
             py::arg("k_scales"), py::arg("v_scales"), py::arg("qkv"), py::arg("block_table"),
             py::arg("first_position"), py::arg("cos"), py::arg("sin"), py::arg("q_weight"),
             py::arg("q_bias"), py::arg("k_weight"), py::arg("k_bias"), py::arg("eps"),
             py::arg("kind"), py::arg("threads") = 1, py::arg("isa") = "",
             "Of qkv f32 [T, H, 3, D]: q, normalised and rotated, to out f32 [T, H, D]; k likewise "
             "and v,\n"
             "rounded to the kind, to positions first_position + t of the pages. cos, sin f32\n"
             "[positions, R/2]; weights and biases f32 [D] or None. Raises InvalidArgumentError,\n"
             "UnsupportedError.");
}

}  // namespace tgv::bindings
