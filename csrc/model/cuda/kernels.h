// The kernels of a decoder step as ordinary functions. launch.cuh compiles every kernel wherever it
// is included; kernels.cc is the one place of this level that does.
//
// Each throws InvalidArgument with the kernel's why_not, SystemError if the launch fails.
#pragma once

#include "kernels/cuda/advance.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/float_gemm.h"
#include "kernels/cuda/half_gemm.h"
#include "kernels/cuda/int4_gemm.h"
#include "kernels/cuda/int4_gemv.h"
#include "kernels/cuda/int8_gemm.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/page_copy.h"
#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/qkv_append.h"
#include "kernels/cuda/sampling.h"

namespace tgv::model {

void run_kernel(const cuda::EmbeddingParams& p, const cuda::Launch& launch);
void run_kernel(const cuda::NormParams& p, const cuda::Launch& launch);
void run_kernel(const cuda::Int4GemvParams& p, const cuda::Launch& launch);
void run_kernel(const cuda::Int4GemmParams& p, const cuda::Launch& launch);
void run_kernel(const cuda::Int8GemmParams& p, const cuda::Launch& launch);
void run_kernel(const cuda::HalfGemmParams& p, const cuda::Launch& launch);
void run_kernel(const cuda::FloatGemmParams& p, const cuda::Launch& launch);
void run_kernel(const cuda::QkvAppendParams& p, const cuda::Launch& launch);
void run_kernel(const cuda::PagedAttentionParams& p, const cuda::Launch& launch);
void run_kernel(const cuda::PrefillAttentionParams& p, const cuda::Launch& launch);
void run_kernel(const cuda::PageCopyParams& p, const cuda::Launch& launch);
void run_kernel(const cuda::SamplingParams& p, const cuda::Launch& launch);
void run_kernel(const cuda::AdvanceParams& p, const cuda::Launch& launch);

}  // namespace tgv::model
