#include "model/cuda/weights.h"

#include <algorithm>
#include <cmath>

#include "base/float16.h"
#include "kernels/cuda/half_gemm.h"
#include "kernels/cuda/int4_gemv.h"
#include "kernels/cuda/int8_gemm.h"

namespace tgv::model {

namespace {

using Role = CudaTensor::Role;

// Rows packed and sent at once, a multiple of every tile's: host memory does not grow with the
// matrix.
constexpr int64_t kRowsAtOnce = 2048;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

std::string layer_name(int64_t layer, const char* tensor) {
  return concat("text.layers.", layer, ".", tensor);
}

int64_t embedding_element_bytes(cuda::EmbeddingKind kind) {
  return kind == cuda::EmbeddingKind::kF32 ? 4 : kind == cuda::EmbeddingKind::kI8 ? 1 : 2;
}

int64_t weight_bytes(int64_t rows, int64_t columns, const CudaForms::Matrix& form) {
  switch (form.form) {
    case CudaForm::kInt4:
      return 4 * cuda::int4_gemv_weight_words(rows, columns, form.group);
    case CudaForm::kInt8:
      return 4 * cuda::int8_gemm_weight_words(rows, columns);
    case CudaForm::kF16:
    case CudaForm::kBF16:
      return 4 * cuda::half_gemm_weight_words(rows, columns);
    case CudaForm::kF32:
      break;
  }
  return 4 * rows * columns;
}

bool has_row_scales(CudaForm form) { return form == CudaForm::kInt8 || form == CudaForm::kBF16; }

const Architecture& checked(const Architecture& architecture) {
  architecture.check();
  return architecture;
}

const CudaForms& checked(const CudaForms& forms) {
  for (const CudaForms::Matrix& form : {forms.body, forms.head}) {
    if (form.form == CudaForm::kInt4 && form.group != 32 && form.group != 64 && form.group != 128) {
      throw InvalidArgument(concat("an int4 group is ", form.group, ", expected 32, 64 or 128"));
    }
  }
  return forms;
}

template <class T>
const T* required(const T* pointer, const std::string& name, const char* what) {
  if (!pointer) throw InvalidArgument(concat(name, " is given without its ", what));
  return pointer;
}

uint16_t finite_half(float value, const std::string& name) {
  const uint16_t half = float_to_half(value);
  if (std::isfinite(value) && (half & 0x7fff) == 0x7c00) {
    throw InvalidArgument(concat(name, " holds ", value, ", which no f16 does"));
  }
  return half;
}

uint8_t nibble(const uint8_t* row, int64_t i) {
  return static_cast<uint8_t>(row[i / 2] >> (i % 2 * 4) & 15);
}

// `count` rows of int4 from a source, as the packing functions take them.
std::vector<uint8_t> unpack_codes(const uint8_t* packed, int64_t first, int64_t count,
                                  int64_t columns) {
  const int64_t stride = ceil_div(columns, 2);
  std::vector<uint8_t> codes(static_cast<size_t>(count * columns));
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t k = 0; k < columns; ++k) {
      codes[static_cast<size_t>(row * columns + k)] = nibble(packed + (first + row) * stride, k);
    }
  }
  return codes;
}

std::vector<Half> unpack_zeros(const uint8_t* packed, int64_t first, int64_t count,
                               int64_t groups) {
  const int64_t stride = ceil_div(groups, 2);
  std::vector<Half> zeros(static_cast<size_t>(count * groups));
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      const uint8_t level = nibble(packed + (first + row) * stride, g);
      zeros[static_cast<size_t>(row * groups + g)] = {float_to_half(level)};
    }
  }
  return zeros;
}

std::vector<uint32_t> pack_groups(const Half* values, int64_t rows, int64_t columns, int group) {
  std::vector<uint32_t> packed(
      static_cast<size_t>(cuda::int4_gemv_scale_words(rows, columns, group)));
  cuda::int4_gemv_pack_groups(packed.data(), values, rows, columns, group);
  return packed;
}

}  // namespace

// --- the plan -----------------------------------------------------------------------------------
CudaTensorPlan::CudaTensorPlan(const Architecture& architecture, const CudaForms& forms)
    : architecture_(checked(architecture)), forms_(checked(forms)) {
  const Architecture& a = architecture_;
  for (int64_t l = 0; l < a.layers; ++l) {
    add_matrix(layer_name(l, "attn.qkv"), 3 * a.width, a.width, forms_.body);
    add_matrix(layer_name(l, "mlp.fc1"), a.mlp_width, a.width, forms_.body);
    add_matrix(layer_name(l, "attn.out"), a.width, a.width, forms_.body);
    add_matrix(layer_name(l, "mlp.fc2"), a.width, a.mlp_width, forms_.body);
    add_vector(layer_name(l, "norm.weight"), a.width);
    add_vector(layer_name(l, "norm.bias"), a.width);
    if (a.qk_norm) {
      for (const char* tensor :
           {"attn.q_norm.weight", "attn.q_norm.bias", "attn.k_norm.weight", "attn.k_norm.bias"}) {
        add_vector(layer_name(l, tensor), a.head_dim);
      }
    }
    if (a.post_attention_norm) add_vector(layer_name(l, "attn.post_norm.weight"), a.width);
  }
  add_matrix("text.head", a.vocab, a.width, forms_.head);
  add_embedding();
  add_vector("text.final_norm.weight", a.width);
  add_vector("text.final_norm.bias", a.width);
}

void CudaTensorPlan::add_matrix(std::string name, int64_t rows, int64_t columns,
                                const CudaForms::Matrix& form) {
  CudaTensor tensor;
  tensor.role = Role::kMatrix;
  tensor.rows = rows;
  tensor.columns = columns;
  tensor.form = form;
  tensor.offset = take(weight_bytes(rows, columns, form));
  if (form.form == CudaForm::kInt4) {
    const int64_t bytes = 4 * cuda::int4_gemv_scale_words(rows, columns, form.group);
    tensor.scales = take(bytes);
    if (!form.symmetric) tensor.zeros = take(bytes);
  }
  if (has_row_scales(form.form)) tensor.scales = take(4 * rows);
  const std::string bias = name + ".bias";
  tensor.name = std::move(name);
  tensors_.push_back(std::move(tensor));
  add_vector(bias, rows, cuda_element_bytes(form.form) == 2);
}

void CudaTensorPlan::add_embedding() {
  CudaTensor tensor;
  tensor.name = "text.embed";
  tensor.role = Role::kEmbedding;
  tensor.rows = architecture_.vocab;
  tensor.columns = architecture_.width;
  tensor.offset = take(tensor.rows * tensor.columns * embedding_element_bytes(forms_.embedding));
  if (forms_.embedding == cuda::EmbeddingKind::kI8) tensor.scales = take(4 * tensor.rows);
  tensors_.push_back(std::move(tensor));
}

void CudaTensorPlan::add_vector(std::string name, int64_t length, bool is_half) {
  CudaTensor tensor;
  tensor.name = std::move(name);
  tensor.rows = length;
  tensor.is_half = is_half;
  tensor.offset = take(length * (is_half ? 2 : 4));
  tensors_.push_back(std::move(tensor));
}

size_t CudaTensorPlan::take(int64_t bytes) {
  const size_t offset = bytes_;
  bytes_ += device_aligned(static_cast<size_t>(bytes));
  return offset;
}

// --- filling ------------------------------------------------------------------------------------
CudaWeights::CudaWeights(const Architecture& architecture, const CudaForms& forms)
    : plan_(architecture, forms), memory_(plan_.bytes(), "the weights") {}

const CudaTensor& CudaWeights::find(std::string_view name, Role role) const {
  const auto at = std::find_if(tensors().begin(), tensors().end(),
                               [&](const CudaTensor& tensor) { return tensor.name == name; });
  if (at == tensors().end()) {
    throw InvalidArgument(
        concat("'", std::string(name.substr(0, 80)), "' is not a tensor of this model"));
  }
  if (at->role != role) {
    throw InvalidArgument(
        concat("'", at->name, "' is not of that kind (matrix, embedding or vector)"));
  }
  return *at;
}

CudaTensor& CudaWeights::to_fill(std::string_view name, Role role) {
  CudaTensor& found = const_cast<CudaTensor&>(find(name, role));
  if (found.filled) throw InvalidArgument(concat("'", found.name, "' was put before"));
  return found;
}

// From memory that the caller gives up at once.
void CudaWeights::send(size_t offset, const void* from, size_t bytes) {
  upload(at(offset), from, bytes, stream_);
  stream_.wait();
}

void CudaWeights::put_matrix(std::string_view name, const MatrixSource& source) {
  CudaTensor& to = to_fill(name, Role::kMatrix);
  switch (to.form.form) {
    case CudaForm::kInt4:
      put_int4(to, source);
      break;
    case CudaForm::kInt8:
      put_int8(to, source);
      break;
    case CudaForm::kF16:
      put_half(to, source);
      break;
    case CudaForm::kBF16:
      put_bfloat16(to, source);
      break;
    case CudaForm::kF32:
      send(to.offset, required(source.f32, to.name, "f32 values"),
           static_cast<size_t>(4 * to.rows * to.columns));
      break;
  }
  to.filled = true;
}

void CudaWeights::put_int4(const CudaTensor& to, const MatrixSource& source) {
  const uint8_t* levels = required(source.int4, to.name, "int4 levels");
  const auto* scales = reinterpret_cast<const Half*>(required(source.scales, to.name, "scales"));
  if (!to.form.symmetric) (void)required(source.zeros, to.name, "zeros");
  const int64_t K = to.columns, groups = ceil_div(K, to.form.group);
  std::vector<uint32_t> words;
  for (int64_t row = 0; row < to.rows; row += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, to.rows - row);
    const auto offset = [&](int64_t words_before) { return static_cast<size_t>(4 * words_before); };
    const size_t group_offset = offset(cuda::int4_gemv_scale_words(row, K, to.form.group));
    words.resize(static_cast<size_t>(cuda::int4_gemv_weight_words(count, K, to.form.group)));
    cuda::int4_gemv_pack_weights(words.data(), unpack_codes(levels, row, count, K).data(), count, K,
                                 to.form.group);
    send(to.offset + offset(cuda::int4_gemv_weight_words(row, K, to.form.group)), words.data(),
         4 * words.size());
    words = pack_groups(scales + row * groups, count, K, to.form.group);
    send(to.scales + group_offset, words.data(), 4 * words.size());
    if (to.form.symmetric) continue;
    words =
        pack_groups(unpack_zeros(source.zeros, row, count, groups).data(), count, K, to.form.group);
    send(to.zeros + group_offset, words.data(), 4 * words.size());
  }
}

void CudaWeights::put_int8(const CudaTensor& to, const MatrixSource& source) {
  const int8_t* levels = required(source.int8, to.name, "int8 levels");
  const float* scales = required(source.row_scales, to.name, "scales of rows");
  std::vector<uint32_t> words;
  for (int64_t row = 0; row < to.rows; row += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, to.rows - row);
    words.resize(static_cast<size_t>(cuda::int8_gemm_weight_words(count, to.columns)));
    cuda::int8_gemm_pack_weights(words.data(), levels + row * to.columns, count, to.columns);
    send(to.offset + static_cast<size_t>(4 * cuda::int8_gemm_weight_words(row, to.columns)),
         words.data(), 4 * words.size());
  }
  send(to.scales, scales, static_cast<size_t>(4 * to.rows));
}

void CudaWeights::put_half(const CudaTensor& to, const MatrixSource& source) {
  const float* values = required(source.f32, to.name, "f32 values");
  const int64_t K = to.columns;
  std::vector<uint16_t> halves;
  std::vector<uint32_t> words;
  for (int64_t row = 0; row < to.rows; row += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, to.rows - row);
    halves.resize(static_cast<size_t>(count * K));
    for (size_t i = 0; i < halves.size(); ++i) {
      halves[i] = finite_half(values[row * K + static_cast<int64_t>(i)], to.name);
    }
    words.resize(static_cast<size_t>(cuda::half_gemm_weight_words(count, K)));
    cuda::half_gemm_pack_weights(words.data(), halves.data(), count, K);
    send(to.offset + static_cast<size_t>(4 * cuda::half_gemm_weight_words(row, K)), words.data(),
         4 * words.size());
  }
}

void CudaWeights::put_bfloat16(const CudaTensor& to, const MatrixSource& source) {
  if (!source.f32) (void)required(source.bf16, to.name, "bf16 or f32 values");
  const int64_t K = to.columns;
  std::vector<uint16_t> rounded, halves;
  std::vector<uint32_t> words;
  std::vector<float> scales(static_cast<size_t>(to.rows));
  for (int64_t row = 0; row < to.rows; row += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, to.rows - row);
    const uint16_t* values = source.f32 ? nullptr : source.bf16 + row * K;
    if (source.f32) {
      const float* exact = source.f32 + row * K;
      rounded.resize(static_cast<size_t>(count * K));
      std::transform(exact, exact + count * K, rounded.begin(), float_to_bfloat16);
      values = rounded.data();
    }
    halves.resize(static_cast<size_t>(count * K));
    if (!cuda::half_gemm_from_bfloat16(halves.data(), scales.data() + row, values, count, K)) {
      throw InvalidArgument(concat(to.name, " holds a weight that is infinite or NaN"));
    }
    words.resize(static_cast<size_t>(cuda::half_gemm_weight_words(count, K)));
    cuda::half_gemm_pack_weights(words.data(), halves.data(), count, K);
    send(to.offset + static_cast<size_t>(4 * cuda::half_gemm_weight_words(row, K)), words.data(),
         4 * words.size());
  }
  send(to.scales, scales.data(), 4 * scales.size());
}

void CudaWeights::put_embedding(const MatrixSource& source) {
  CudaTensor& to = to_fill("text.embed", Role::kEmbedding);
  const size_t count = static_cast<size_t>(to.rows * to.columns);
  std::vector<uint16_t> codes;
  const auto round_to = [&](uint16_t (*round)(float)) {
    const float* values = required(source.f32, to.name, "f32 rows");
    codes.resize(count);
    for (size_t i = 0; i < count; ++i) codes[i] = round(values[i]);
    send(to.offset, codes.data(), 2 * count);
  };
  switch (forms().embedding) {
    case cuda::EmbeddingKind::kF32:
      send(to.offset, required(source.f32, to.name, "f32 rows"), 4 * count);
      break;
    case cuda::EmbeddingKind::kF16:
      round_to(float_to_half);
      break;
    case cuda::EmbeddingKind::kBF16:
      if (source.f32) {
        round_to(float_to_bfloat16);
      } else {
        send(to.offset, required(source.bf16, to.name, "bf16 or f32 rows"), 2 * count);
      }
      break;
    case cuda::EmbeddingKind::kI8:
      send(to.offset, required(source.int8, to.name, "int8 rows"), count);
      send(to.scales, required(source.row_scales, to.name, "scales of rows"),
           static_cast<size_t>(4 * to.rows));
      break;
  }
  to.filled = true;
}

void CudaWeights::put_vector(std::string_view name, const float* values, int64_t count) {
  CudaTensor& to = to_fill(name, Role::kVector);
  if (count != to.rows) {
    throw InvalidArgument(concat(to.name, " has ", count, " elements, expected ", to.rows));
  }
  if (to.is_half) {
    std::vector<uint16_t> halves;
    for (int64_t i = 0; i < count; ++i) halves.push_back(finite_half(values[i], to.name));
    send(to.offset, halves.data(), 2 * halves.size());
  } else {
    send(to.offset, values, static_cast<size_t>(4 * count));
  }
  to.filled = true;
}

void CudaWeights::check_complete() const {
  for (const CudaTensor& tensor : tensors()) {
    if (!tensor.filled) throw InvalidArgument(concat("'", tensor.name, "' was never put"));
  }
}

// --- reading ------------------------------------------------------------------------------------
CudaMatrix CudaWeights::matrix(std::string_view name) const {
  const CudaTensor& tensor = find(name, Role::kMatrix);
  const bool int4 = tensor.form.form == CudaForm::kInt4;
  CudaMatrix out;
  out.form = tensor.form;
  out.rows = tensor.rows;
  out.columns = tensor.columns;
  out.weights = at(tensor.offset);
  if (int4) out.scales = reinterpret_cast<const uint32_t*>(at(tensor.scales));
  if (int4 && !tensor.form.symmetric) {
    out.zeros = reinterpret_cast<const uint32_t*>(at(tensor.zeros));
  }
  if (has_row_scales(tensor.form.form)) {
    out.row_scales = reinterpret_cast<const float*>(at(tensor.scales));
  }
  out.bias = at(find(tensor.name + ".bias", Role::kVector).offset);
  return out;
}

const float* CudaWeights::vector(std::string_view name) const {
  const CudaTensor& tensor = find(name, Role::kVector);
  if (tensor.is_half) throw InvalidArgument(concat("'", tensor.name, "' is not held as f32"));
  return reinterpret_cast<const float*>(at(tensor.offset));
}

CudaEmbedding CudaWeights::embedding() const {
  const CudaTensor& tensor = find("text.embed", Role::kEmbedding);
  CudaEmbedding out;
  out.kind = forms().embedding;
  out.rows = at(tensor.offset);
  if (out.kind == cuda::EmbeddingKind::kI8) {
    out.scales = reinterpret_cast<const float*>(at(tensor.scales));
  }
  return out;
}

}  // namespace tgv::model
