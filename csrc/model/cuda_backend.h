// The CUDA library's weights, pages and decoder as a backend. Host code of every build: what runs
// on the GPU is behind a table of functions (cuda/table.h).
#pragma once

#include <span>

#include "model/backend.h"
#include "model/cuda/table.h"

namespace tgv::model {

// The table of the CUDA library. Throws Unsupported where no GPU can be used, saying why;
// SystemError for a library of another version.
const CudaTable& cuda_table();

// What a model of these would take, and its backend. Allocates nothing. Throws InvalidArgument,
// SystemError.
CudaMemoryPlan plan_cuda_memory(const CudaTable& table, const Architecture& architecture,
                                const CudaForms& forms, const BackendOptions& options);

// Weights on a GPU: filled tensor by tensor by one thread, then never changed again.
class CudaModel final : public LoadedModel {
 public:
  // Room for every tensor, nothing in it. id: 1..64 characters; weights of equal ids are equal in
  // every form of them. The table outlives the model. Throws InvalidArgument, CapacityError (no
  // room on the GPU), SystemError.
  CudaModel(const CudaTable& table, const Architecture& architecture, const CudaForms& forms,
            std::string id);
  ~CudaModel() override;
  CudaModel(const CudaModel&) = delete;
  CudaModel& operator=(const CudaModel&) = delete;

  // --- filling: each tensor once, under the names and from the sources of model::Weights. All
  // throw InvalidArgument, SystemError.
  void put_matrix(const std::string& name, const MatrixSource& source);
  void put_embedding(const MatrixSource& source);
  void put_vector(const std::string& name, std::span<const float> values);
  void check_complete() const;  // names the first tensor that is missing

  const Architecture& architecture() const override { return architecture_; }
  const std::string& id() const override { return id_; }
  int64_t bytes() const override { return table_.model_bytes(handle_); }
  // Throws as Decoder and CudaDecoder do, InvalidArgument if a tensor is missing.
  std::unique_ptr<Backend> make_backend(const BackendOptions& options,
                                        ThreadPool& pool) const override;

 private:
  const CudaTable& table_;
  const Architecture architecture_;
  const std::string id_;
  CudaModelHandle* handle_ = nullptr;
};

}  // namespace tgv::model
