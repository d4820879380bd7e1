// What other files of bindings/ need of the model's.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "model/weights.h"

namespace tgv::bindings {

// The Python object _native.Weights: being filled, or complete and shared.
class WeightsHandle {
 public:
  explicit WeightsHandle(std::shared_ptr<model::Weights> filling) : filling_(std::move(filling)) {}
  explicit WeightsHandle(std::shared_ptr<const model::Weights> complete)
      : complete_(std::move(complete)) {}

  const model::Weights& any() const { return complete_ ? *complete_ : *filling_; }
  model::Weights& filling();                                // throws once complete
  const std::shared_ptr<const model::Weights>& complete();  // from here on it cannot be filled

 private:
  std::shared_ptr<model::Weights> filling_;
  std::shared_ptr<const model::Weights> complete_;
};

}  // namespace tgv::bindings
