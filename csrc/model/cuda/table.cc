#include "model/cuda/table.h"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>

#include "base/errors.h"
#include "model/cuda/decoder.h"
#include "model/cuda/sampler.h"

namespace tgv::model {

struct CudaModelHandle {
  std::shared_ptr<CudaWeights> weights;
};

namespace {

// Of lists longer than these the logits come to the host. An array of each kind has room for the
// lists of all draws.
DrawLimits draw_limits_of(const Architecture& model, const CudaDecoderOptions& options) {
  DrawLimits limits;
  limits.draws = options.max_logit_rows;
  limits.history = std::min<int64_t>(model.max_positions, 8192) + 1024;
  limits.bias = 1024;
  limits.banned = 256;
  limits.top = std::min<int64_t>(cuda::kSamplingMaxTop, model.vocab);
  return limits;
}

}  // namespace

struct CudaRunnerHandle {
  CudaRunnerHandle(const CudaModelHandle& model, const CudaPageShape& pages,
                   const CudaDecoderOptions& options)
      : storage(pages),
        decoder(model.weights, storage, options),
        sampler(decoder.architecture().vocab, draw_limits_of(decoder.architecture(), options),
                decoder.all_logits(), decoder.stream()),
        logits(logits_bytes(decoder.architecture(), options), "the logits of a step") {}

  static size_t logits_bytes(const Architecture& model, const CudaDecoderOptions& options) {
    return static_cast<size_t>(4 * options.max_logit_rows * model.vocab);
  }

  CudaStorage storage;
  CudaDecoder decoder;
  CudaSampler sampler;
  PinnedMemory logits;  // [max_logit_rows, V] f32
};

namespace {

// Calls come from several threads, and which device is current in each is somebody else's choice.
class OnFirstDevice {
#if defined(__CUDACC__)
 public:
  OnFirstDevice() {
    cuda::check(cudaGetDevice(&before_), "cudaGetDevice");
    cuda::check(cudaSetDevice(0), "cudaSetDevice");
  }
  ~OnFirstDevice() { (void)cudaSetDevice(before_); }
  OnFirstDevice(const OnFirstDevice&) = delete;
  OnFirstDevice& operator=(const OnFirstDevice&) = delete;

 private:
  int before_ = 0;
#endif
};

CudaStatus failed(CudaStatus status, const char* message, CudaError* error) noexcept {
  std::snprintf(error->message, sizeof error->message, "%s", message);
  return status;
}

template <class Body>
CudaStatus guarded(CudaError* error, const Body& body) noexcept {
  try {
    [[maybe_unused]] const OnFirstDevice device;
    body();
    return CudaStatus::kNone;
  } catch (const InvalidArgument& thrown) {
    return failed(CudaStatus::kInvalidArgument, thrown.what(), error);
  } catch (const Unsupported& thrown) {
    return failed(CudaStatus::kUnsupported, thrown.what(), error);
  } catch (const CapacityError& thrown) {
    return failed(CudaStatus::kCapacity, thrown.what(), error);
  } catch (const SystemError& thrown) {
    return failed(CudaStatus::kSystem, thrown.what(), error);
  } catch (const std::exception& thrown) {
    return failed(CudaStatus::kOther, thrown.what(), error);
  } catch (...) {
    return failed(CudaStatus::kOther, "an unknown error", error);
  }
}

CudaStatus plan_memory(CudaMemoryPlan* out, const Architecture* architecture,
                       const CudaForms* forms, const CudaPageShape* pages,
                       const CudaDecoderOptions* options, CudaError* error) {
  return guarded(error, [&] {
    const CudaTensorPlan weights(*architecture, *forms);
    const auto decoder = CudaDecoder::memory_for(*architecture, *forms, *pages, *options);
    const auto sampler =
        CudaSampler::memory_for(architecture->vocab, draw_limits_of(*architecture, *options));
    const size_t logits = CudaRunnerHandle::logits_bytes(*architecture, *options);
    const DeviceMemoryInfo memory = device_memory_info();
    out->weights_bytes = static_cast<int64_t>(weights.bytes());
    out->pages_bytes = static_cast<int64_t>(CudaStorage::bytes_for(*pages));
    out->arena_bytes = static_cast<int64_t>(decoder.arena_bytes + sampler.arena_bytes);
    out->pinned_bytes = static_cast<int64_t>(decoder.pinned_bytes + sampler.pinned_bytes + logits);
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
  return guarded(error, [&] { *out = new CudaRunnerHandle(*model, *pages, *options); });
}

void free_runner(CudaRunnerHandle* runner) {
  CudaError error;
  (void)guarded(&error, [&] { delete runner; });
}

int64_t arena_bytes(const CudaRunnerHandle* runner) {
  return static_cast<int64_t>(runner->decoder.arena_bytes() + runner->sampler.arena_bytes() +
                              runner->logits.bytes());
}

int64_t page_bytes(const CudaRunnerHandle* runner) { return runner->storage.shape().page_bytes(); }

void draw_limits(const CudaRunnerHandle* runner, DrawLimits* out) {
  *out = runner->sampler.limits();
}

int64_t downloaded_bytes(const CudaRunnerHandle* runner) {
  return runner->decoder.stream().downloaded_bytes();
}

int64_t logit_rows_of(const DeviceSegment* segments, int64_t count) {
  int64_t rows = 0;
  for (int64_t i = 0; i < count; ++i) rows += segments[i].logit_rows;
  return rows;
}

// The rows that are read on the host, neighbours in one copy.
void start_reading(CudaRunnerHandle* runner, const DeviceSegment* segments, int64_t count) {
  const CudaDecoder& decoder = runner->decoder;
  float* const to = reinterpret_cast<float*>(runner->logits.data());
  const int64_t vocab = decoder.architecture().vocab;
  int64_t first = 0, end = 0;  // rows that wait to be copied
  for (int64_t i = 0; i < count; ++i) {
    const int64_t next = end + segments[i].logit_rows;
    if (!segments[i].reads_logits) {
      decoder.start_reading(to + first * vocab, first, end - first);
      first = next;
    }
    end = next;
  }
  decoder.start_reading(to + first * vocab, first, end - first);
}

CudaStepResults results_of(const CudaRunnerHandle* runner) {
  const CudaSampler::Results drawn = runner->sampler.results();
  return {1,
          reinterpret_cast<const float*>(runner->logits.data()),
          drawn.ids,
          drawn.logprobs,
          drawn.top_ids,
          drawn.top_logprobs,
          drawn.top};
}

CudaStatus step(CudaRunnerHandle* runner, const DeviceSegment* segments, int64_t count,
                const Draw* draws, int64_t draw_count, const std::atomic<bool>* stop,
                CudaStepResults* out, CudaError* error) {
  return guarded(error, [&] {
    CudaDecoder& decoder = runner->decoder;
    runner->sampler.check(draws, draw_count, logit_rows_of(segments, count));
    const bool done = decoder.start(segments, count, stop);
    if (done) {
      runner->sampler.start(draws, draw_count);
      start_reading(runner, segments, count);
    }
    decoder.stream().wait();  // a step that was given up or wants no logits, too
    *out = done ? results_of(runner) : CudaStepResults{};
  });
}

CudaStatus copy_rows(CudaRunnerHandle* runner, int64_t to_page, int64_t from_page, int64_t rows,
                     CudaError* error) {
  return guarded(error, [&] {
    runner->storage.copy_rows(to_page, from_page, rows, runner->decoder.stream());
  });
}

#if defined(__CUDACC__)
constexpr int32_t kIsEmulated = 0;
#else
constexpr int32_t kIsEmulated = 1;
#endif

const CudaTable kTable = {kCudaTableVersion, kIsEmulated, plan_memory,   make_model, free_model,
                          model_bytes,       put_matrix,  put_embedding, put_vector, check_complete,
                          make_runner,       free_runner, arena_bytes,   page_bytes, draw_limits,
                          downloaded_bytes,  step,        copy_rows};

}  // namespace

}  // namespace tgv::model

extern "C" __attribute__((visibility("default"))) const tgv::model::CudaTable*
tgv_cuda_model_table() {
  return &tgv::model::kTable;
}
