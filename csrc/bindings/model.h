// What other files of bindings/ need of the model's.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "model/backend.h"
#include "model/weights.h"

namespace tgv::bindings {

// The Python object _native.LoadedModel: weights on some device, being filled or complete.
class ModelHandle {
 public:
  virtual ~ModelHandle() = default;

  // From here on it cannot be filled. Throws InvalidArgument if a tensor is missing.
  virtual std::shared_ptr<const model::LoadedModel> loaded() = 0;
};

// The Python object _native.Weights: those of the CPU.
class WeightsHandle final : public ModelHandle {
 public:
  explicit WeightsHandle(std::shared_ptr<model::Weights> filling) : filling_(std::move(filling)) {}
  explicit WeightsHandle(std::shared_ptr<const model::Weights> complete)
      : complete_(std::move(complete)) {}

  const model::Weights& any() const { return complete_ ? *complete_ : *filling_; }
  model::Weights& filling();                                // throws once complete
  const std::shared_ptr<const model::Weights>& complete();  // from here on it cannot be filled
  std::shared_ptr<const model::LoadedModel> loaded() override;

 private:
  std::shared_ptr<model::Weights> filling_;
  std::shared_ptr<const model::Weights> complete_;
};

// Parts of bind_model: weights on a GPU, the decoder step alone.
void bind_cuda_model(pybind11::module_& module);
void bind_decoder(pybind11::module_& module);

}  // namespace tgv::bindings
