#include "kernels/cpu/embedding.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "base/errors.h"
#include "base/match.h"
#include "bindings/bindings.h"
#include "bindings/tensors.h"

namespace tgv::bindings {

namespace {

// bfloat16 comes as the bits of float16: the buffer protocol has no name for it.
DType buffer_dtype(const std::string& kind) {
  if (kind == "f32") return DType::kF32;
  if (kind == "bf16") return DType::kF16;
  if (kind == "int8") return DType::kI8;
  throw InvalidArgument(
      tgv::concat("kind is '", kind.substr(0, 40), "', expected 'f32', 'bf16' or 'int8'"));
}

cpu::EmbeddingKind kind_of(DType dtype) {
  if (dtype == DType::kF32) return cpu::EmbeddingKind::kF32;
  return dtype == DType::kF16 ? cpu::EmbeddingKind::kBF16 : cpu::EmbeddingKind::kInt8;
}

void embedding(const py::buffer& y, const py::buffer& ids, const py::buffer& rows,
               const std::optional<py::buffer>& scales, const std::string& kind) {
  const DType dtype = buffer_dtype(kind);
  const TensorView r = view_of(rows, "table"), i = view_of(ids, "ids"), out = view_of(y, "out");
  Sizes sizes;
  sizes.match("table", r, {"V", "C"}, {dtype});
  cpu::EmbeddingTable table{kind_of(dtype), r.data, nullptr, sizes["V"], sizes["C"]};
  if (scales.has_value() != (dtype == DType::kI8)) {
    throw InvalidArgument(tgv::concat("scales is ", scales ? "given" : "None",
                                      ", expected f32 [V] if and only if the table is int8"));
  }
  if (scales) {
    const TensorView s = view_of(*scales, "scales");
    sizes.match("scales", s, {"V"}, {DType::kF32});
    table.scales = static_cast<const float*>(s.data);
    check_apart("out", out, "scales", s);
  }
  sizes.match("ids", i, {"T"}, {DType::kI32});
  sizes.match("out", out, {"T", "C"}, {DType::kF32}, Access::kWrite);
  check_apart("out", out, "table", r);
  check_apart("out", out, "ids", i);
  const int32_t* first = static_cast<const int32_t*>(i.data);
  py::gil_scoped_release release;
  const std::string why = cpu::embed_why_not(table, first, sizes["T"]);
  if (!why.empty()) throw InvalidArgument(why);
  cpu::embed(static_cast<float*>(out.data), table, first, sizes["T"]);
}

}  // namespace

void bind_embedding(py::module_& module) {
  module.def("embedding", &embedding, py::arg("out"), py::arg("ids"), py::arg("table"),
             py::arg("scales"), py::arg("kind"),
             "out f32 [T, C] = rows ids i32 [T] of table [V, C]; kind 'f32', 'bf16' (bits as f16) "
             "or\n'int8' with scales f32 [V]. Raises InvalidArgumentError.");
}

}  // namespace tgv::bindings
