// What the weights, the pages and the decoder of a GPU are made for. Numbers alone: the host reads
// this header without the emulation, nvcc as C++17.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/embedding.h"
#include "kernels/cuda/kv_pages.h"

namespace tgv::model {

// How the matrices are stored.
enum class CudaForm : uint8_t { kInt4, kF16, kF32, kInt8, kBF16 };

// Bytes of the numbers that a product with such weights takes: f32, otherwise f16.
inline size_t cuda_element_bytes(CudaForm form) { return form == CudaForm::kF32 ? 4 : 2; }

struct CudaForms {
  struct Matrix {
    CudaForm form = CudaForm::kInt4;
    int group = 32;         // int4: 32, 64 or 128
    bool symmetric = true;  // int4
  };
  Matrix body;
  Matrix head;
  cuda::EmbeddingKind embedding = cuda::EmbeddingKind::kI8;
};

struct CudaPageShape {
  int64_t pages = 0;     // NP, 1..2^31-1
  int64_t layers = 0;    // L, 1..1024
  int64_t heads = 0;     // H, 1..1024
  int64_t head_dim = 0;  // D, a multiple of 8 in 8..256
  cuda::KvKind kind = cuda::KvKind::kI8;

  void check() const;            // throws InvalidArgument
  int64_t plane_bytes() const;   // of K of one page in one layer
  int64_t scales_bytes() const;  // of its scales; 0 for kinds without
  int64_t page_bytes() const;    // of one page in all layers: K and V, with scales
  int64_t total_bytes() const;
};

// What a model, its pages and steps over them take. Of the GPU but for pinned_bytes.
struct CudaMemoryPlan {
  int64_t weights_bytes = 0;
  int64_t pages_bytes = 0;   // of all pages
  int64_t arena_bytes = 0;   // what steps are computed in
  int64_t pinned_bytes = 0;  // of the host: inputs and logits of a step
  int64_t free_bytes = 0;    // of the GPU, when asked
  int64_t total_bytes = 0;   // of the GPU
};

struct CudaDecoderOptions {
  int64_t max_tokens = 256;            // in a step, all segments together
  int64_t max_logit_rows = 16;         // in a step
  int64_t max_sequences = 64;          // in a step; not read over f32 pages
  int multiprocessors = 0;             // blocks of a matrix product; 0: the device's
  int64_t shared_bytes_per_block = 0;  // 0: what the device lets a block have
  bool graphs = true;                  // steps that only decode are launched as captured graphs
  bool early_starts = true;            // kernels may start early (dependent.cuh) where they can
};

// What a device lets a launch have; as it stands here, the emulation's: a small GPU of sm_90.
struct DeviceLimits {
  int multiprocessors = 4;
  int64_t shared_bytes_per_block = 232448;
  bool can_start_early = true;  // see kernels/cuda/device/dependent.cuh
};

// What was put on a stream so far.
struct StreamCounts {
  int64_t uploads = 0;
  int64_t launches = 0;  // of kernels one by one; those that were captured are not among them
  int64_t graphs = 0;    // launches of whole graphs
  int64_t downloads = 0;
  int64_t downloaded_bytes = 0;
};

}  // namespace tgv::model
