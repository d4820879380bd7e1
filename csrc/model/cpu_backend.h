// model::Decoder and kv::Storage as a backend: the CPU of this machine.
#pragma once

#include "kv/storage.h"
#include "model/backend.h"
#include "model/decoder.h"

namespace tgv::model {

class CpuModel final : public LoadedModel {
 public:
  explicit CpuModel(std::shared_ptr<const Weights> weights);  // complete; throws InvalidArgument

  const Architecture& architecture() const override { return weights_->plan().architecture(); }
  const std::string& id() const override { return weights_->id(); }
  int64_t bytes() const override { return weights_->plan().bytes(); }
  std::unique_ptr<Backend> make_backend(const BackendOptions& options,
                                        ThreadPool& pool) const override;

 private:
  const std::shared_ptr<const Weights> weights_;
};

}  // namespace tgv::model
