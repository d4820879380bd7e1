#include "kernels/cpu/matmul.h"

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

namespace tgv::bindings {

namespace {

// Throws unless a matrix of this shape can be packed.
cpu::LinearShape checked(const cpu::LinearShape& shape) {
  if (const char* why = cpu::linear_shape_why_not(shape)) {
    const std::string groups =
        shape.kind == cpu::WeightKind::kInt4 ? tgv::concat(" in groups of ", shape.group_size) : "";
    throw InvalidArgument(tgv::concat("[N=", shape.rows, ",K=", shape.columns, "]", groups,
                                      " cannot be packed: ", why));
  }
  return shape;
}

cpu::LinearShape int4_shape(int64_t rows, int64_t columns, int64_t group_size, bool symmetric) {
  return checked({cpu::WeightKind::kInt4, rows, columns, group_size, symmetric});
}

cpu::LinearShape int8_shape(int64_t rows, int64_t columns) {
  return checked({cpu::WeightKind::kInt8, rows, columns});
}

cpu::LinearShape float_shape(int64_t rows, int64_t columns, const std::string& kind) {
  if (kind == "f32") return checked({cpu::WeightKind::kF32, rows, columns});
  if (kind == "bf16") return checked({cpu::WeightKind::kBF16, rows, columns});
  throw InvalidArgument(
      tgv::concat("kind is '", kind.substr(0, 40), "', expected 'f32' or 'bf16'"));
}

uint8_t* packed_output(const py::buffer& packed, const cpu::LinearShape& shape, Sizes& sizes) {
  const TensorView out = view_of(packed, "packed");
  sizes.match("packed", out, {shape.packed_bytes()}, {DType::kU8}, Access::kWrite);
  return data_of<uint8_t>(out);
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
  uint8_t* const out = packed_output(packed, shape, sizes);

  py::gil_scoped_release release;
  cpu::int4_pack(shape, out, source, caller().pool(threads));
}

void int8_pack(const py::buffer& packed, const py::buffer& qweight, const py::buffer& scales,
               int threads) {
  const TensorView q = view_of(qweight, "qweight"), s = view_of(scales, "scales");
  Sizes sizes;
  sizes.match("qweight", q, {"N", "K"}, {DType::kI8});
  sizes.match("scales", s, {"N"}, {DType::kF32});
  const cpu::LinearShape shape = int8_shape(sizes["N"], sizes["K"]);
  uint8_t* const out = packed_output(packed, shape, sizes);

  py::gil_scoped_release release;
  cpu::int8_pack(shape, out, data_of<const int8_t>(q), data_of<const float>(s),
                 caller().pool(threads));
}

void float_pack(const py::buffer& packed, const py::buffer& weights, const std::string& kind,
                int threads) {
  const TensorView w = view_of(weights, "weights");
  Sizes sizes;
  sizes.match("weights", w, {"N", "K"}, {DType::kF32});
  const cpu::LinearShape shape = float_shape(sizes["N"], sizes["K"], kind);
  uint8_t* const out = packed_output(packed, shape, sizes);

  py::gil_scoped_release release;
  cpu::float_pack(shape, out, data_of<const float>(w), caller().pool(threads));
}

cpu::Activation activation_of(const std::string& name) {
  if (name.empty()) return cpu::Activation::kNone;
  if (name == "gelu_tanh") return cpu::Activation::kGeluTanh;
  throw InvalidArgument(
      tgv::concat("activation is '", name.substr(0, 40), "', expected '' or 'gelu_tanh'"));
}

void multiply(const cpu::LinearShape& shape, const py::buffer& y, const py::buffer& x,
              const py::buffer& packed, const std::optional<py::buffer>& bias,
              const std::string& activation, int threads, const std::string& isa) {
  cpu::MatmulParams p;
  cpu::Linear& linear = p.linear;
  linear.shape = shape;
  Sizes sizes;
  sizes.set("N", shape.rows, "w");
  sizes.set("K", shape.columns, "w");
  const auto view = [&](const char* name, const py::buffer& buffer, const std::vector<Dim>& dims,
                        DType dtype, Access access) {
    const TensorView found = view_of(buffer, name);
    sizes.match(name, found, dims, {dtype}, access);
    return found.data;
  };
  p.x = static_cast<const float*>(view("x", x, {"M", "K"}, DType::kF32, Access::kRead));
  linear.packed = static_cast<const uint8_t*>(
      view("packed", packed, {shape.packed_bytes()}, DType::kU8, Access::kRead));
  if (bias) {
    linear.bias = static_cast<const float*>(view("bias", *bias, {"N"}, DType::kF32, Access::kRead));
  }
  p.y = static_cast<float*>(view("out", y, {"M", "N"}, DType::kF32, Access::kWrite));
  p.tokens = sizes["M"];
  linear.activation = activation_of(activation);
  const Isa chosen = choose_isa(isa);

  py::gil_scoped_release release;
  const size_t scratch = cpu::matmul_scratch_bytes(shape, p.tokens);
  if (scratch) p.scratch = caller().scratch(scratch);
  cpu::matmul(p, caller().pool(threads), chosen);
}

void int4_matmul(const py::buffer& y, const py::buffer& x, const py::buffer& packed,
                 const std::optional<py::buffer>& bias, int64_t rows, int64_t columns,
                 int64_t group_size, bool symmetric, const std::string& activation, int threads,
                 const std::string& isa) {
  multiply(int4_shape(rows, columns, group_size, symmetric), y, x, packed, bias, activation,
           threads, isa);
}

void int8_matmul(const py::buffer& y, const py::buffer& x, const py::buffer& packed,
                 const std::optional<py::buffer>& bias, int64_t rows, int64_t columns,
                 const std::string& activation, int threads, const std::string& isa) {
  multiply(int8_shape(rows, columns), y, x, packed, bias, activation, threads, isa);
}

void float_matmul(const py::buffer& y, const py::buffer& x, const py::buffer& packed,
                  const std::optional<py::buffer>& bias, int64_t rows, int64_t columns,
                  const std::string& kind, const std::string& activation, int threads,
                  const std::string& isa) {
  multiply(float_shape(rows, columns, kind), y, x, packed, bias, activation, threads, isa);
}

}  // namespace

void bind_matmul(py::module_& module) {
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
  module.def(
      "int8_packed_bytes",
      [](int64_t rows, int64_t columns) { return int8_shape(rows, columns).packed_bytes(); },
      py::arg("rows"), py::arg("columns"),
      "Bytes of a packed int8 matrix. Raises InvalidArgumentError.");
  module.def("int8_pack", &int8_pack, py::arg("packed"), py::arg("qweight"), py::arg("scales"),
             py::arg("threads") = 1,
             "Reorder qweight i8 [N, K] and scales f32 [N] into packed u8 [int8_packed_bytes].\n"
             "Raises InvalidArgumentError.");
  module.def("int8_matmul", &int8_matmul, py::arg("out"), py::arg("x"), py::arg("packed"),
             py::arg("bias"), py::arg("rows"), py::arg("columns"), py::arg("activation") = "",
             py::arg("threads") = 1, py::arg("isa") = "",
             "As int4_matmul, for a matrix of int8_pack. Raises InvalidArgumentError,\n"
             "UnsupportedError.");
  module.def(
      "float_packed_bytes",
      [](int64_t rows, int64_t columns, const std::string& kind) {
        return float_shape(rows, columns, kind).packed_bytes();
      },
      py::arg("rows"), py::arg("columns"), py::arg("kind"),
      "Bytes of a packed matrix of kind 'f32' or 'bf16'. Raises InvalidArgumentError.");
  module.def("float_pack", &float_pack, py::arg("packed"), py::arg("weights"), py::arg("kind"),
             py::arg("threads") = 1,
             "Reorder weights f32 [N, K] into packed u8 [float_packed_bytes], rounded to nearest\n"
             "even for kind 'bf16'. Raises InvalidArgumentError.");
  module.def("matmul", &float_matmul, py::arg("out"), py::arg("x"), py::arg("packed"),
             py::arg("bias"), py::arg("rows"), py::arg("columns"), py::arg("kind"),
             py::arg("activation") = "", py::arg("threads") = 1, py::arg("isa") = "",
             "As int4_matmul, for a matrix of float_pack, with float32 arithmetic throughout.\n"
             "Raises InvalidArgumentError, UnsupportedError.");
}

}  // namespace tgv::bindings
