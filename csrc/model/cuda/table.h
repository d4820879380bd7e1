// The decoder on a GPU across the border of the CUDA library: functions in a table, because no
// exception and no class with code behind it may cross. cuda_backend.h is the host's side of it,
// table.cc the library's; the tests link table.cc compiled for the emulation.
//
// The structs that cross are plain numbers and pointers of headers that both sides are compiled
// from. kCudaTableVersion grows by one with every change of theirs and of the table.
//
// C++17: nvcc reads it.
#pragma once

#include <atomic>
#include <cstdint>

#include "model/architecture.h"
#include "model/cuda/kernel_table.h"
#include "model/cuda/sizes.h"
#include "model/cuda/status.h"
#include "model/cuda/step.h"
#include "model/draw.h"
#include "model/graph_cost.h"
#include "model/matrix_source.h"

namespace tgv::model {

inline constexpr int32_t kCudaTableVersion = 8;
inline constexpr const char* kCudaTableEntry = "tgv_cuda_model_table";

// What a step came to, in the host's memory until the next step.
struct CudaStepResults {
  int32_t steps = 0;  // 0: it was given up, and nothing else here counts; more: those ahead, too
  const float* logits =
      nullptr;                   // [logit rows, V]; rows of segments that read none are not written
  const int32_t* ids = nullptr;  // [draws], see Drawn
  const float* logprobs = nullptr;
  const int32_t* top_ids = nullptr;  // [draws, top]
  const float* top_logprobs = nullptr;
  int64_t top = 0;     // the most that any draw wanted
  int64_t stride = 0;  // of ids and logprobs, from one step to the next
};

struct CudaModelHandle;   // weights, to be filled and then never changed
struct CudaRunnerHandle;  // pages and a decoder over them

// A model outlives its runners. One call at a time for each handle, from any thread. Everything is
// on CUDA's first device, but for single kernels, which are told theirs; which one is current for
// the caller's thread does not matter and stays.
struct CudaTable {
  int32_t version;
  int32_t is_emulated;  // 1: compiled for the host, for tests

  // What make_model and make_runner would take of these. Allocates nothing.
  CudaStatus (*plan_memory)(CudaMemoryPlan* out, const Architecture* architecture,
                            const CudaForms* forms, const CudaPageShape* pages,
                            const CudaDecoderOptions* options, CudaError* error);

  CudaStatus (*make_model)(CudaModelHandle** out, const Architecture* architecture,
                           const CudaForms* forms, CudaError* error);
  void (*free_model)(CudaModelHandle* model);
  int64_t (*model_bytes)(const CudaModelHandle* model);
  // As CudaWeights has them; names are terminated.
  CudaStatus (*put_matrix)(CudaModelHandle* model, const char* name, const MatrixSource* source,
                           CudaError* error);
  CudaStatus (*put_embedding)(CudaModelHandle* model, const MatrixSource* source, CudaError* error);
  CudaStatus (*put_vector)(CudaModelHandle* model, const char* name, const float* values,
                           int64_t count, CudaError* error);
  CudaStatus (*check_complete)(const CudaModelHandle* model, CudaError* error);

  CudaStatus (*make_runner)(CudaRunnerHandle** out, const CudaModelHandle* model,
                            const CudaPageShape* pages, const CudaDecoderOptions* options,
                            CudaError* error);
  void (*free_runner)(CudaRunnerHandle* runner);
  int64_t (*arena_bytes)(const CudaRunnerHandle* runner);  // host memory for logits included
  int64_t (*page_bytes)(const CudaRunnerHandle* runner);
  void (*draw_limits)(const CudaRunnerHandle* runner, DrawLimits* out);
  void (*graph_cost)(const CudaRunnerHandle* runner, GraphCost* out);
  void (*stream_counts)(const CudaRunnerHandle* runner, StreamCounts* out);
  // CudaRunner::step.
  CudaStatus (*step)(CudaRunnerHandle* runner, const DeviceSegment* segments, int64_t count,
                     const Draw* draws, int64_t draw_count, const std::atomic<bool>* stop,
                     CudaStepResults* out, CudaError* error);
  CudaStatus (*copy_rows)(CudaRunnerHandle* runner, int64_t to_page, int64_t from_page,
                          int64_t rows, CudaError* error);

  CudaKernelTable kernels;
};

}  // namespace tgv::model

// The one symbol of it, by the name kCudaTableEntry.
extern "C" const tgv::model::CudaTable* tgv_cuda_model_table();
