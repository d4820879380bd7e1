#include "bindings/prefix_pages.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/match.h"
#include "bindings/bindings.h"
#include "bindings/tensors.h"

namespace tgv::bindings {

namespace {

using engine::PrefixPages;
using OptionalBuffer = std::optional<py::buffer>;
using Extents = std::vector<py::ssize_t>;

// Buffers know no bfloat16: its codes come as those of float16.
DType dtype_of(kv::Kind kind) {
  if (kind == kv::Kind::kF32) return DType::kF32;
  return kind == kv::Kind::kI8 ? DType::kI8 : DType::kF16;
}

py::dtype numpy_type(kv::Kind kind) {
  if (kind == kv::Kind::kF32) return py::dtype("float32");
  return py::dtype(kind == kv::Kind::kI8 ? "int8" : "float16");
}

Extents extents(const kv::Shape& shape) {
  return {shape.pages, shape.layers, 2, shape.heads, kv::kPageTokens, shape.head_dim};
}

py::array numbers_array(const kv::Shape& shape, const void* numbers) {
  return py::array(numpy_type(shape.kind), extents(shape), numbers);
}

py::object scales_array(const kv::Shape& shape, const uint16_t* scales) {
  if (!kv::has_scales(shape.kind)) return py::none();
  Extents sizes = extents(shape);
  sizes.pop_back();
  return py::array(py::dtype("float16"), sizes, scales);
}

template <class Element>
void copy(std::vector<Element>& to, const TensorView& from) {
  const auto* first = static_cast<const uint8_t*>(from.data);
  to.resize(static_cast<size_t>(from.elements() * dtype_bytes(from.dtype)) / sizeof(Element));
  std::copy_n(first, to.size() * sizeof(Element), reinterpret_cast<uint8_t*>(to.data()));
}

std::array<uint8_t, 32> digest_of(const py::bytes& bytes) {
  const std::string text = bytes;
  std::array<uint8_t, 32> digest;
  if (text.size() != digest.size()) {
    throw InvalidArgument(tgv::concat("digest has ", text.size(), " bytes, expected 32"));
  }
  std::copy(text.begin(), text.end(), digest.begin());
  return digest;
}

PagesHandle make_pages(const py::buffer& ids, const OptionalBuffer& embeddings,
                       const py::buffer& numbers, const OptionalBuffer& scales,
                       const std::string& kind, const std::string& model_id,
                       const py::bytes& digest) {
  const auto pages = std::make_shared<PrefixPages>();
  pages->kind = kv::parse_kind(kind);
  pages->model_id = model_id;
  pages->digest = digest_of(digest);
  Sizes sizes;
  const TensorView i = view_of(ids, "ids");
  sizes.match("ids", i, {"T"}, {DType::kI32});
  sizes.set("n", sizes["T"] / kv::kPageTokens, "ids");
  const TensorView x = view_of(numbers, "numbers");
  sizes.match("numbers", x, {"n", "L", 2, "H", kv::kPageTokens, "D"}, {dtype_of(pages->kind)});
  pages->layers = sizes["L"];
  pages->heads = sizes["H"];
  pages->head_dim = sizes["D"];
  copy(pages->ids, i);
  copy(pages->numbers, x);
  if (embeddings) {
    const TensorView e = view_of(*embeddings, "embeddings");
    sizes.match("embeddings", e, {"rows", "C"}, {DType::kF32});
    copy(pages->embeddings, e);
  }
  if (scales) {
    const TensorView s = view_of(*scales, "scales");
    sizes.match("scales", s, {"n", "L", 2, "H", kv::kPageTokens}, {DType::kF16});
    copy(pages->scales, s);
  }
  py::gil_scoped_release release;
  pages->check();
  return pages;
}

}  // namespace

py::tuple pages_tuple(const engine::PagesEvent& event) {
  return py::make_tuple("pages", numbers_array(event.shape, event.numbers.data()),
                        scales_array(event.shape, event.scales.data()));
}

void bind_prefix_pages(py::module_& module) {
  py::class_<PrefixPages, PagesHandle>(
      module, "PrefixPages",
      "Keys and values of a prompt's first positions, for requests that begin with them; copies "
      "of\n"
      "what they are made from, never changed. numbers [n,L,2,H,PS=16,D] int8, f32 or f16 (codes\n"
      "of bf16 too), scales f16 [n,L,2,H,PS] for int8, ids int32 [n*PS] with -1 for the next row "
      "of\n"
      "embeddings f32 [rows,C], digest: 32 bytes that name the content. Raises\n"
      "InvalidArgumentError, for numbers too that no page can hold.")
      .def(py::init(&make_pages), py::arg("ids"), py::arg("embeddings"), py::arg("numbers"),
           py::arg("scales"), py::kw_only(), py::arg("kind"), py::arg("model_id"),
           py::arg("digest"))
      .def_property_readonly("kind", [](const PrefixPages& p) { return kv::kind_name(p.kind); })
      .def_property_readonly("model_id", [](const PrefixPages& p) { return p.model_id; })
      .def_property_readonly("positions", &PrefixPages::positions)
      .def_property_readonly("ids", [](const PrefixPages& p) { return p.ids; })
      .def_property_readonly(
          "numbers",
          [](const PrefixPages& p) { return numbers_array(p.shape(), p.numbers.data()); },
          "A copy.")
      .def_property_readonly(
          "scales", [](const PrefixPages& p) { return scales_array(p.shape(), p.scales.data()); },
          "A copy, or None.");
}

}  // namespace tgv::bindings
