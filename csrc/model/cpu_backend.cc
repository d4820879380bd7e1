#include "model/cpu_backend.h"

#include <utility>

#include "base/errors.h"

namespace tgv::model {

namespace {

class CpuBackend final : public Backend {
 public:
  CpuBackend(std::shared_ptr<const Weights> weights, const BackendOptions& options,
             ThreadPool& pool)
      : storage_(options.pages),
        decoder_(std::move(weights), storage_, pool,
                 {options.max_tokens, options.max_logit_rows, options.isa}) {}

  kv::PageStore& pages() override { return storage_; }
  DrawLimits draw_limits() const override { return {}; }
  bool step(std::span<const Segment> segments, std::span<const Draw> draws,
            const std::atomic<bool>* stop) override {
    refuse_draws(draws.size());
    return decoder_.step(segments, stop);
  }
  const float* logits(int64_t row) const override { return decoder_.logits(row); }
  Drawn drawn(int64_t index, int64_t /*step*/) const override {
    throw InvalidArgument(concat("draw is ", index, ", the CPU's steps have none"));
  }
  int64_t arena_bytes() const override { return static_cast<int64_t>(decoder_.arena_bytes()); }

 private:
  static void refuse_draws(size_t count) {
    if (count == 0) return;
    throw InvalidArgument(
        concat("a step of ", count, " draws, expected 0: the CPU's logits are in reach"));
  }

  kv::Storage storage_;
  Decoder decoder_;
};

}  // namespace

CpuModel::CpuModel(std::shared_ptr<const Weights> weights) : weights_(std::move(weights)) {
  if (!weights_) throw InvalidArgument("weights is null, expected the weights of a backbone");
  weights_->check_complete();
}

std::unique_ptr<Backend> CpuModel::make_backend(const BackendOptions& options,
                                                ThreadPool& pool) const {
  return std::make_unique<CpuBackend>(weights_, options, pool);
}

}  // namespace tgv::model
