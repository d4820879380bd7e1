#include "model/cuda/table.h"

#include <memory>

#include "model/cuda/guarded.h"
#include "model/cuda/runner.h"

namespace tgv::model {

struct CudaModelHandle {
  std::shared_ptr<CudaWeights> weights;
};

struct CudaRunnerHandle {
  CudaRunner runner;
};

namespace {

constexpr int kFirstDevice = 0;

template <class Body>
CudaStatus guarded(CudaError* error, const Body& body) noexcept {
  return guarded(error, kFirstDevice, body);
}

CudaStatus plan_memory(CudaMemoryPlan* out, const Architecture* architecture,
                       const CudaForms* forms, const CudaPageShape* pages,
                       const CudaDecoderOptions* options, CudaError* error) {
  return guarded(error, [&] {
    const CudaTensorPlan weights(*architecture, *forms);
    const CudaRunner::Memory runner =
        CudaRunner::memory_for(*architecture, *forms, *pages, *options);
    const DeviceMemoryInfo memory = device_memory_info();
    out->weights_bytes = static_cast<int64_t>(weights.bytes());
    out->pages_bytes = static_cast<int64_t>(CudaStorage::bytes_for(*pages));
    out->arena_bytes = static_cast<int64_t>(runner.arena_bytes);
    out->pinned_bytes = static_cast<int64_t>(runner.pinned_bytes);
    out->free_bytes = static_cast<int64_t>(memory.free_bytes);
    out->total_bytes = static_cast<int64_t>(memory.total_bytes);
  });
}

// --- weights ------------------------------------------------------------------------------------
CudaStatus make_model(CudaModelHandle** out, const Architecture* architecture,
                      const CudaForms* forms, CudaError* error) {
  return guarded(error, [&] {
    auto weights = std::make_shared<CudaWeights>(*architecture, *forms);
    *out = new CudaModelHandle{std::move(weights)};
  });
}

// What cannot be given back on its device is gone with the process.
void free_model(CudaModelHandle* model) {
  CudaError error;
  (void)guarded(&error, [&] { delete model; });
}

int64_t model_bytes(const CudaModelHandle* model) {
  return static_cast<int64_t>(model->weights->bytes());
}

CudaStatus put_matrix(CudaModelHandle* model, const char* name, const MatrixSource* source,
                      CudaError* error) {
  return guarded(error, [&] { model->weights->put_matrix(name, *source); });
}

CudaStatus put_embedding(CudaModelHandle* model, const MatrixSource* source, CudaError* error) {
  return guarded(error, [&] { model->weights->put_embedding(*source); });
}

CudaStatus put_vector(CudaModelHandle* model, const char* name, const float* values, int64_t count,
                      CudaError* error) {
  return guarded(error, [&] { model->weights->put_vector(name, values, count); });
}

CudaStatus check_complete(const CudaModelHandle* model, CudaError* error) {
  return guarded(error, [&] { model->weights->check_complete(); });
}

// --- pages and steps ----------------------------------------------------------------------------
CudaStatus make_runner(CudaRunnerHandle** out, const CudaModelHandle* model,
                       const CudaPageShape* pages, const CudaDecoderOptions* options,
                       CudaError* error) {
  return guarded(
      error, [&] { *out = new CudaRunnerHandle{CudaRunner(model->weights, *pages, *options)}; });
}

void free_runner(CudaRunnerHandle* runner) {
  CudaError error;
  (void)guarded(&error, [&] { delete runner; });
}

int64_t arena_bytes(const CudaRunnerHandle* handle) {
  return static_cast<int64_t>(handle->runner.arena_bytes());
}

int64_t page_bytes(const CudaRunnerHandle* handle) {
  return handle->runner.storage().shape().page_bytes();
}

void draw_limits(const CudaRunnerHandle* handle, DrawLimits* out) {
  *out = handle->runner.draw_limits();
}

void graph_cost(const CudaRunnerHandle* handle, GraphCost* out) {
  *out = handle->runner.graph_cost();
}

void stream_counts(const CudaRunnerHandle* handle, StreamCounts* out) {
  *out = handle->runner.stream().counts();
}

CudaStepResults results_of(const CudaRunner& runner, int64_t steps) {
  const CudaSampler::Results drawn = runner.drawn();
  CudaStepResults out;
  out.steps = static_cast<int32_t>(steps);
  out.logits = runner.logits();
  out.ids = drawn.ids;
  out.logprobs = drawn.logprobs;
  out.top_ids = drawn.top_ids;
  out.top_logprobs = drawn.top_logprobs;
  out.top = drawn.top;
  out.stride = drawn.stride;
  return out;
}

CudaStatus step(CudaRunnerHandle* handle, const DeviceSegment* segments, int64_t count,
                const Draw* draws, int64_t draw_count, const std::atomic<bool>* stop,
                CudaStepResults* out, CudaError* error) {
  return guarded(error, [&] {
    CudaRunner& runner = handle->runner;
    const int64_t steps = runner.step(segments, count, draws, draw_count, stop);
    *out = steps ? results_of(runner, steps) : CudaStepResults{};
  });
}

CudaStatus copy_rows(CudaRunnerHandle* handle, int64_t to_page, int64_t from_page, int64_t rows,
                     CudaError* error) {
  return guarded(error, [&] {
    CudaRunner& runner = handle->runner;
    runner.storage().copy_rows(to_page, from_page, rows, runner.stream());
  });
}

#if defined(__CUDACC__)
constexpr int32_t kIsEmulated = 0;
#else
constexpr int32_t kIsEmulated = 1;
#endif

const CudaTable kTable = {kCudaTableVersion, kIsEmulated,    plan_memory, make_model,
                          free_model,        model_bytes,    put_matrix,  put_embedding,
                          put_vector,        check_complete, make_runner, free_runner,
                          arena_bytes,       page_bytes,     draw_limits, graph_cost,
                          stream_counts,     step,           copy_rows,   kernel_table()};

}  // namespace

}  // namespace tgv::model

extern "C" __attribute__((visibility("default"))) const tgv::model::CudaTable*
tgv_cuda_model_table() {
  return &tgv::model::kTable;
}
