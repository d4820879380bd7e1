// The weights of a backbone in the memory of a GPU, each tensor packed as the kernels read it.
// Filled tensor by tensor, under the names and from the sources of model::Weights.
//
// int4   One packing (int4_gemv.h) serves int4_gemv and int4_gemm: one copy of the weights.
// int8   int8_gemm's packing, with a scale for each row.
// f16    half_gemm's packing. bf16: the same, as f16 with a power of two for each row
// (half_gemm.h). f32    Rows as they are, the exact mode. Bias   In the elements of its matrix's
// products: f16, or f32 with f32 weights.
//
// One block of device memory, sized at construction. Written by one thread; once complete it never
// changes, and decoders share it. C++17: nvcc compiles it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/architecture.h"
#include "model/cuda/device_memory.h"
#include "model/cuda/sizes.h"
#include "model/matrix_source.h"

namespace tgv::model {

// One tensor and its place.
struct CudaTensor {
  enum class Role : uint8_t { kMatrix, kEmbedding, kVector };
  std::string name;  // as model::Entry has it
  Role role = Role::kVector;
  int64_t rows = 0, columns = 1;  // [N, K], [V, C] or [length, 1]
  CudaForms::Matrix form;         // of a matrix
  bool is_half = false;           // of a vector
  size_t offset = 0;              // bytes from the start of the block
  size_t scales = 0, zeros = 0;   // where they are: of groups, or of the rows of int8 and bf16
  bool filled = false;
};

// A matrix with its bias as the products take it.
struct CudaMatrix {
  CudaForms::Matrix form;
  int64_t rows = 0, columns = 0;      // N, K
  const void* weights = nullptr;      // packed
  const uint32_t* scales = nullptr;   // of int4
  const uint32_t* zeros = nullptr;    // of int4; null when symmetric
  const float* row_scales = nullptr;  // [N] of int8 and bf16
  const void* bias = nullptr;         // [N] elements
};

struct CudaEmbedding {
  cuda::EmbeddingKind kind = cuda::EmbeddingKind::kF32;
  const void* rows = nullptr;     // [V, C]
  const float* scales = nullptr;  // [V]; null unless int8
};

// Every tensor of a model and its place in one block. Follows from its arguments alone.
class CudaTensorPlan {
 public:
  CudaTensorPlan(const Architecture& architecture, const CudaForms& forms);  // InvalidArgument

  const Architecture& architecture() const { return architecture_; }
  const CudaForms& forms() const { return forms_; }
  const std::vector<CudaTensor>& tensors() const { return tensors_; }
  std::vector<CudaTensor>& tensors() { return tensors_; }
  size_t bytes() const { return bytes_; }  // of the block

 private:
  void add_matrix(std::string name, int64_t rows, int64_t columns, const CudaForms::Matrix& form);
  void add_embedding();
  void add_vector(std::string name, int64_t length, bool is_half = false);
  size_t take(int64_t bytes);

  const Architecture architecture_;
  const CudaForms forms_;
  std::vector<CudaTensor> tensors_;
  size_t bytes_ = 0;
};

class CudaWeights {
 public:
  // Room for every tensor, nothing in it. Throws InvalidArgument, CapacityError, SystemError.
  CudaWeights(const Architecture& architecture, const CudaForms& forms);

  const Architecture& architecture() const { return plan_.architecture(); }
  const CudaForms& forms() const { return plan_.forms(); }
  const std::vector<CudaTensor>& tensors() const { return plan_.tensors(); }
  size_t bytes() const { return memory_.bytes(); }

  // --- filling: each tensor once; all throw InvalidArgument -------------------------------------
  // The f16 form is rounded from f32; the bf16 form, too, if that is given.
  void put_matrix(std::string_view name, const MatrixSource& source);
  // As model::Weights takes it; the f16 and bf16 kinds are rounded from f32, if that is given.
  void put_embedding(const MatrixSource& source);
  void put_vector(std::string_view name, const float* values, int64_t count);
  void check_complete() const;  // names the first tensor that is missing

  // --- reading; throw InvalidArgument for a name that is not there ------------------------------
  CudaMatrix matrix(std::string_view name) const;
  const float* vector(std::string_view name) const;  // not of a bias
  CudaEmbedding embedding() const;

 private:
  const CudaTensor& find(std::string_view name, CudaTensor::Role role) const;
  CudaTensor& to_fill(std::string_view name, CudaTensor::Role role);
  uint8_t* at(size_t offset) const { return memory_.data() + offset; }
  void send(size_t offset, const void* from, size_t bytes);
  void put_int4(const CudaTensor& to, const MatrixSource& source);
  void put_int8(const CudaTensor& to, const MatrixSource& source);
  void put_half(const CudaTensor& to, const MatrixSource& source);
  void put_bfloat16(const CudaTensor& to, const MatrixSource& source);

  CudaTensorPlan plan_;  // what is filled changes in it
  DeviceMemory memory_;
  DeviceStream stream_;
};

}  // namespace tgv::model
