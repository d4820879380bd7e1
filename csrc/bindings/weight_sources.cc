#include "bindings/weight_sources.h"

#include "base/match.h"
#include "bindings/tensors.h"

namespace tgv::bindings {

cpu::WeightKind weight_kind_of(const std::string& argument, const std::string& name) {
  using enum cpu::WeightKind;
  for (const cpu::WeightKind kind : {kInt4, kInt8, kBF16, kF32}) {
    if (name == cpu::weight_kind_name(kind)) return kind;
  }
  throw InvalidArgument(
      concat(argument, " is '", name.substr(0, 40), "', expected 'int4', 'int8', 'bf16' or 'f32'"));
}

model::Architecture architecture_of(const py::dict& fields) {
  const char* what = "architecture";
  model::Architecture a;
  a.width = taken<int64_t>(fields, "width", what);
  a.layers = taken<int64_t>(fields, "layers", what);
  a.heads = taken<int64_t>(fields, "heads", what);
  a.head_dim = taken<int64_t>(fields, "head_dim", what);
  a.rotary_dims = taken<int64_t>(fields, "rotary_dims", what);
  a.mlp_width = taken<int64_t>(fields, "mlp_width", what);
  a.vocab = taken<int64_t>(fields, "vocab_size", what);
  a.max_positions = taken<int64_t>(fields, "max_positions", what);
  a.rope_theta = taken<double>(fields, "rope_theta", what);
  a.norm_eps = taken<float>(fields, "norm_eps", what);
  a.rms_norm_eps = taken<float>(fields, "rms_norm_eps", what);
  a.qk_norm = taken<bool>(fields, "qk_norm", what);
  a.post_attention_norm = taken<bool>(fields, "post_attention_norm", what);
  a.check();
  return a;
}

MatrixSize size_of(const model::Plan& plan, const std::string& name) {
  const model::Entry& entry = plan.entries()[static_cast<size_t>(plan.find(name))];
  if (entry.role == model::Role::kEmbedding) return {entry.rows, entry.columns, 0};
  if (entry.role == model::Role::kVector) {
    throw InvalidArgument(tgv::concat("'", name, "' is a vector: use put_vector"));
  }
  const model::Forms& forms = plan.forms();
  const bool is_head = name == "text.head";
  return {entry.matrix.rows, entry.matrix.columns, (is_head ? forms.head : forms.body).group_size};
}

model::MatrixSource int4_source(const MatrixSize& size, const py::buffer& qweight,
                                const py::buffer& scales, const std::optional<py::buffer>& zeros) {
  const int64_t N = size.rows, K = size.columns;
  if (size.group < 1) throw InvalidArgument("the embedding has no int4 form");
  const int64_t groups = (K + size.group - 1) / size.group;
  Sizes sizes;
  const TensorView q = view_of(qweight, "qweight"), s = view_of(scales, "scales");
  sizes.match("qweight", q, {N, (K + 1) / 2}, {DType::kU8});
  sizes.match("scales", s, {N, groups}, {DType::kF16});
  model::MatrixSource source;
  source.int4 = data_of<const uint8_t>(q);
  source.scales = data_of<const uint16_t>(s);
  if (zeros) {
    const TensorView z = view_of(*zeros, "zeros");
    sizes.match("zeros", z, {N, (groups + 1) / 2}, {DType::kU8});
    source.zeros = data_of<const uint8_t>(z);
  }
  return source;
}

model::MatrixSource int8_source(const MatrixSize& size, const py::buffer& qweight,
                                const py::buffer& scales) {
  Sizes sizes;
  const TensorView q = view_of(qweight, "qweight"), s = view_of(scales, "scales");
  sizes.match("qweight", q, {size.rows, size.columns}, {DType::kI8});
  sizes.match("scales", s, {size.rows}, {DType::kF32});
  model::MatrixSource source;
  source.int8 = data_of<const int8_t>(q);
  source.row_scales = data_of<const float>(s);
  return source;
}

model::MatrixSource f32_source(const MatrixSize& size, const py::buffer& values) {
  Sizes sizes;
  const TensorView v = view_of(values, "values");
  sizes.match("values", v, {size.rows, size.columns}, {DType::kF32});
  model::MatrixSource source;
  source.f32 = data_of<const float>(v);
  return source;
}

model::MatrixSource bf16_source(const MatrixSize& size,
                                const py::array_t<uint16_t, py::array::c_style>& bits) {
  if (bits.ndim() != 2 || bits.shape(0) != size.rows || bits.shape(1) != size.columns) {
    throw InvalidArgument(
        tgv::concat("bits has another shape, expected [", size.rows, ",", size.columns, "]"));
  }
  model::MatrixSource source;
  source.bf16 = bits.data();
  return source;
}

std::span<const float> vector_source(const py::buffer& values) {
  const TensorView v = view_of(values, "values");
  Sizes sizes;
  sizes.match("values", v, {"N"}, {DType::kF32});
  return {data_of<const float>(v), static_cast<size_t>(sizes["N"])};
}

}  // namespace tgv::bindings
