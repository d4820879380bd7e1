// Single kernels across the border of the CUDA library, for whoever has tensors and a stream of
// their own (ops in Python). A part of CudaTable: table.h has the rules.
//
// A call puts its work on the caller's stream and returns; addresses are the device's. Only sizes
// are judged, by the kernel's why_not.
//
// C++17: nvcc reads it.
#pragma once

#include <cstdint>

#include "kernels/cuda/embedding.h"
#include "kernels/cuda/float_gemm.h"
#include "kernels/cuda/half_gemm.h"
#include "kernels/cuda/int4_gemm.h"
#include "kernels/cuda/int8_gemm.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/qkv_append.h"
#include "kernels/cuda/sampling.h"
#include "model/cuda/int4_choice.h"
#include "model/cuda/sizes.h"
#include "model/cuda/status.h"

namespace tgv::model {

struct CudaCall {
  int32_t device = 0;
  uint64_t stream = 0;  // a cudaStream_t of that device; 0: its default stream
};

struct CudaKernelTable {
  // A product's workspace is for as many blocks as there are multiprocessors.
  CudaStatus (*limits)(DeviceLimits* out, const CudaCall* call, CudaError* error);

  CudaStatus (*embedding)(const cuda::EmbeddingParams* p, const CudaCall* call, CudaError* error);
  CudaStatus (*norm)(const cuda::NormParams* p, const CudaCall* call, CudaError* error);
  // Up to kGemvRows rows go through int4_gemv, where it can take them.
  CudaStatus (*int4_product)(const cuda::Int4GemmParams* p, const CudaCall* call, CudaError* error);
  CudaStatus (*int8_product)(const cuda::Int8GemmParams* p, const CudaCall* call, CudaError* error);
  CudaStatus (*half_product)(const cuda::HalfGemmParams* p, const CudaCall* call, CudaError* error);
  CudaStatus (*float_product)(const cuda::FloatGemmParams* p, const CudaCall* call,
                              CudaError* error);
  CudaStatus (*qkv_append)(const cuda::QkvAppendParams* p, const CudaCall* call, CudaError* error);
  CudaStatus (*paged_attention)(const cuda::PagedAttentionParams* p, const CudaCall* call,
                                CudaError* error);
  CudaStatus (*prefill_attention)(const cuda::PrefillAttentionParams* p, const CudaCall* call,
                                  CudaError* error);
  CudaStatus (*sampling)(const cuda::SamplingParams* p, const CudaCall* call, CudaError* error);
};

CudaKernelTable kernel_table();  // the library's side

}  // namespace tgv::model
