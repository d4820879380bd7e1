#include "model/cuda_backend.h"

#include <utility>
#include <vector>

#include "base/errors.h"
#include "kernels/cuda/api.h"
#include "model/cuda_call.h"

namespace tgv::model {

namespace {

cuda::KvKind kind_of(kv::Kind kind) {
  switch (kind) {
    case kv::Kind::kF32:
      return cuda::KvKind::kF32;
    case kv::Kind::kF16:
      return cuda::KvKind::kF16;
    case kv::Kind::kBF16:
      return cuda::KvKind::kBF16;
    case kv::Kind::kI8:
      break;
  }
  return cuda::KvKind::kI8;
}

CudaPageShape page_shape(const kv::Shape& shape) {
  shape.check();
  return {shape.pages, shape.layers, shape.heads, shape.head_dim, kind_of(shape.kind)};
}

CudaDecoderOptions decoder_options(const BackendOptions& options) {
  CudaDecoderOptions sizes;
  sizes.max_tokens = options.max_tokens;
  sizes.max_logit_rows = options.max_logit_rows;
  sizes.max_sequences = options.max_segments;
  sizes.graphs = options.graphs;
  sizes.early_starts = options.early_starts;
  return sizes;
}

// Without the host. More would make who stops or arrives wait longer, and gains little: the host
// costs a part of a step's time once in so many.
constexpr int64_t kMostSteps = 4;

class CudaBackend final : public Backend, private kv::PageStore {
 public:
  CudaBackend(const CudaTable& table, const CudaModelHandle* model, const BackendOptions& options,
              int64_t vocab)
      : table_(table), shape_(options.pages), vocab_(vocab) {
    const CudaPageShape pages = page_shape(shape_);
    const CudaDecoderOptions sizes = decoder_options(options);
    segments_.reserve(static_cast<size_t>(options.max_segments));
    call(table_.make_runner, &runner_, model, &pages, &sizes);
  }
  ~CudaBackend() override { table_.free_runner(runner_); }
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  kv::PageStore& pages() override { return *this; }

  DrawLimits draw_limits() const override {
    DrawLimits limits;
    table_.draw_limits(runner_, &limits);
    return limits;
  }

  bool step(std::span<const Segment> segments, std::span<const Draw> draws,
            const std::atomic<bool>* stop) override {
    results_ = {};
    segments_.clear();
    for (const Segment& s : segments) {
      segments_.push_back({s.block_table.data(), static_cast<int64_t>(s.block_table.size()),
                           s.first_position, s.tokens.data(), static_cast<int64_t>(s.tokens.size()),
                           s.logit_rows, s.reads_logits, s.ahead});
    }
    draws_ = static_cast<int64_t>(draws.size());
    call(table_.step, runner_, segments_.data(), static_cast<int64_t>(segments_.size()),
         draws.data(), draws_, stop, &results_);
    return results_.steps != 0;
  }

  const float* logits(int64_t row) const override {
    int64_t rows = 0;
    for (const DeviceSegment& s : segments_) {
      if (row >= rows && row < rows + s.logit_rows && !s.reads_logits) {
        throw InvalidArgument(concat("logit row is ", row, ", of a segment that reads none"));
      }
      rows += s.logit_rows;
    }
    if (!results_.steps) rows = 0;
    if (row < 0 || row >= rows) {
      throw InvalidArgument(concat("logit row is ", row, ", the last step had ", rows));
    }
    return results_.logits + row * vocab_;
  }

  int64_t most_steps() const override { return graph_cost().graphs ? kMostSteps : 1; }
  int64_t steps() const override { return results_.steps; }

  Drawn drawn(int64_t index, int64_t step) const override {
    const int64_t draws = step >= 0 && step < results_.steps ? draws_ : 0;
    if (index < 0 || index >= draws) {
      throw InvalidArgument(concat("draw is ", index, ", the last step had ", draws));
    }
    const int64_t top = index * results_.top, at = step * results_.stride + index;
    return {results_.ids[at], results_.logprobs[at], results_.top_ids + top,
            results_.top_logprobs + top};
  }

  int64_t arena_bytes() const override { return table_.arena_bytes(runner_); }
  GraphCost graph_cost() const override {
    GraphCost cost;
    table_.graph_cost(runner_, &cost);
    return cost;
  }

 private:
  const kv::Shape& shape() const override { return shape_; }
  int64_t page_bytes() const override { return table_.page_bytes(runner_); }
  void copy_rows(int64_t to_page, int64_t from_page, int64_t rows) override {
    call(table_.copy_rows, runner_, to_page, from_page, rows);
  }

  const CudaTable& table_;
  const kv::Shape shape_;
  const int64_t vocab_;
  CudaRunnerHandle* runner_ = nullptr;
  // of the last step, or the one that runs
  std::vector<DeviceSegment> segments_;
  int64_t draws_ = 0;
  CudaStepResults results_;
};

}  // namespace

const CudaTable& cuda_table() {
  using Entry = const CudaTable* (*)();
  const CudaTable* const table = reinterpret_cast<Entry>(cuda::function(kCudaTableEntry))();
  if (table->version != kCudaTableVersion) {
    throw SystemError("the CUDA library is of another version of this package; reinstall it");
  }
  if (table->is_emulated) throw SystemError("the CUDA library is an emulation for tests");
  return *table;
}

CudaMemoryPlan plan_cuda_memory(const CudaTable& table, const Architecture& architecture,
                                const CudaForms& forms, const BackendOptions& options) {
  const CudaPageShape pages = page_shape(options.pages);
  const CudaDecoderOptions sizes = decoder_options(options);
  CudaMemoryPlan plan;
  call(table.plan_memory, &plan, &architecture, &forms, &pages, &sizes);
  return plan;
}

CudaModel::CudaModel(const CudaTable& table, const Architecture& architecture,
                     const CudaForms& forms, std::string id)
    : table_(table), architecture_(architecture), id_(std::move(id)) {
  check_range("the length of id", static_cast<int64_t>(id_.size()), 1, 64);
  call(table_.make_model, &handle_, &architecture_, &forms);
}

CudaModel::~CudaModel() { table_.free_model(handle_); }

void CudaModel::put_matrix(const std::string& name, const MatrixSource& source) {
  call(table_.put_matrix, handle_, name.c_str(), &source);
}

void CudaModel::put_embedding(const MatrixSource& source) {
  call(table_.put_embedding, handle_, &source);
}

void CudaModel::put_vector(const std::string& name, std::span<const float> values) {
  call(table_.put_vector, handle_, name.c_str(), values.data(),
       static_cast<int64_t>(values.size()));
}

void CudaModel::check_complete() const { call(table_.check_complete, handle_); }

std::unique_ptr<Backend> CudaModel::make_backend(const BackendOptions& options,
                                                 ThreadPool& /*pool*/) const {
  return std::make_unique<CudaBackend>(table_, handle_, options, architecture_.vocab);
}

}  // namespace tgv::model
