#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "base/errors.h"
#include "base/huge_buffer.h"
#include "base/isa.h"
#include "base/match.h"
#include "bindings/bindings.h"
#include "bindings/caller.h"
#include "bindings/tensors.h"
#include "kernels/cpu/matmul.h"

namespace tgv::bindings {

namespace {

template <class T>
T* data_of(const TensorView& view) {
  return static_cast<T*>(view.data);
}

// Throws unless a matrix of this shape can be packed.
cpu::LinearShape int4_shape(int64_t rows, int64_t columns, int64_t group_size, bool symmetric) {
  const cpu::LinearShape shape{cpu::WeightKind::kInt4, rows, columns, group_size, symmetric};
  if (const char* why = cpu::linear_shape_why_not(shape)) {
    throw InvalidArgument(tgv::concat("[N=", rows, ",K=", columns, "] in groups of ", group_size,
                                      " cannot be packed: ", why));
  }
  return shape;
}

void int4_pack(const py::buffer& packed, const py::buffer& qweight, const py::buffer& scales,
               const std::optional<py::buffer>& zeros, int64_t columns, int64_t group_size,
               int threads) {
  const TensorView q = view_of(qweight, "qweight");
  Sizes sizes;
  sizes.match("qweight", q, {"N", "ceil(K/2)"}, {DType::kU8});
  const cpu::LinearShape shape = int4_shape(sizes["N"], columns, group_size, !zeros.has_value());
  sizes.match("qweight", q, {"N", (columns + 1) / 2}, {DType::kU8});
  cpu::Int4Source source;
  source.qweight = data_of<const uint8_t>(q);
  const TensorView s = view_of(scales, "scales");
  sizes.match("scales", s, {"N", shape.groups()}, {DType::kF16});
  source.scales = data_of<const uint16_t>(s);
  if (zeros) {
    const TensorView z = view_of(*zeros, "zeros");
    sizes.match("zeros", z, {"N", (shape.groups() + 1) / 2}, {DType::kU8});
    source.zeros = data_of<const uint8_t>(z);
  }
  const TensorView out = view_of(packed, "packed");
  sizes.match("packed", out, {shape.packed_bytes()}, {DType::kU8}, Access::kWrite);

  py::gil_scoped_release release;
  cpu::int4_pack(shape, data_of<uint8_t>(out), source, caller().pool(threads));
}

cpu::Activation activation_of(const std::string& name) {
  if (name.empty()) return cpu::Activation::kNone;
  if (name == "gelu_tanh") return cpu::Activation::kGeluTanh;
  throw InvalidArgument(
      tgv::concat("activation is '", name.substr(0, 40), "', expected '' or 'gelu_tanh'"));
}

void int4_matmul(const py::buffer& y, const py::buffer& x, const py::buffer& packed,
                 const std::optional<py::buffer>& bias, int64_t rows, int64_t columns,
                 int64_t group_size, bool symmetric, const std::string& activation, int threads,
                 const std::string& isa) {
  cpu::MatmulParams p;
  cpu::Linear& linear = p.linear;
  linear.shape = int4_shape(rows, columns, group_size, symmetric);
  Sizes sizes;
  sizes.set("N", rows, "w");
  sizes.set("K", columns, "w");
  const auto view = [&](const char* name, const py::buffer& buffer, const std::vector<Dim>& dims,
                        DType dtype, Access access) {
    const TensorView found = view_of(buffer, name);
    sizes.match(name, found, dims, {dtype}, access);
    return found.data;
  };
  p.x = static_cast<const float*>(view("x", x, {"M", "K"}, DType::kF32, Access::kRead));
  linear.packed = static_cast<const uint8_t*>(
      view("packed", packed, {linear.shape.packed_bytes()}, DType::kU8, Access::kRead));
  if (bias) {
    linear.bias = static_cast<const float*>(view("bias", *bias, {"N"}, DType::kF32, Access::kRead));
  }
  p.y = static_cast<float*>(view("out", y, {"M", "N"}, DType::kF32, Access::kWrite));
  p.tokens = sizes["M"];
  linear.activation = activation_of(activation);
  const Isa chosen = choose_isa(isa);

  py::gil_scoped_release release;
  p.scratch = caller().scratch(cpu::matmul_scratch_bytes(linear.shape, p.tokens));
  cpu::matmul(p, caller().pool(threads), chosen);
}

}  // namespace

void bind_int4_matmul(py::module_& module) {
  py::class_<HugeBuffer>(module, "HugeBuffer", py::buffer_protocol(),
                         "Zeroed memory on huge pages where the system grants them, as a buffer of "
                         "uint8.")
      .def(py::init<size_t>(), py::arg("bytes"))
      .def_buffer([](HugeBuffer& buffer) {
        return py::buffer_info(buffer.data(), static_cast<py::ssize_t>(buffer.bytes()));
      });
  module.def(
      "int4_packed_bytes",
      [](int64_t rows, int64_t columns, int64_t group_size, bool symmetric) {
        return int4_shape(rows, columns, group_size, symmetric).packed_bytes();
      },
      py::arg("rows"), py::arg("columns"), py::arg("group_size"), py::arg("symmetric"),
      "Bytes of a packed int4 matrix. Raises InvalidArgumentError.");
  module.def("int4_pack", &int4_pack, py::arg("packed"), py::arg("qweight"), py::arg("scales"),
             py::arg("zeros"), py::arg("columns"), py::arg("group_size"), py::arg("threads") = 1,
             "Reorder qweight u8 [N, ceil(K/2)], scales f16 [N, ceil(K/G)] and zeros (None or u8\n"
             "[N, ceil(ceil(K/G)/2)]) into packed u8 [int4_packed_bytes]. Raises "
             "InvalidArgumentError.");
  module.def(
      "int4_matmul", &int4_matmul, py::arg("out"), py::arg("x"), py::arg("packed"), py::arg("bias"),
      py::arg("rows"), py::arg("columns"), py::arg("group_size"), py::arg("symmetric"),
      py::arg("activation") = "", py::arg("threads") = 1, py::arg("isa") = "",
      "out f32 [M, N] = act(x f32 [M, K] times the packed matrix, transposed, + bias f32 [N]\n"
      "or None). activation: '' or 'gelu_tanh'; isa: '' (the widest) or a name of isas().\n"
      "Raises InvalidArgumentError, UnsupportedError.");
}

}  // namespace tgv::bindings
