#include "model/cuda/kernels.h"

#include "kernels/cuda/launch.cuh"

namespace tgv::model {

void run_kernel(const cuda::EmbeddingParams& p, const cuda::Launch& launch) {
  cuda::launch_embedding(p, launch);
}

void run_kernel(const cuda::NormParams& p, const cuda::Launch& launch) {
  cuda::launch_norm(p, launch);
}

void run_kernel(const cuda::Int4GemvParams& p, const cuda::Launch& launch) {
  cuda::launch_int4_gemv(p, launch);
}

void run_kernel(const cuda::Int4GemmParams& p, const cuda::Launch& launch) {
  cuda::launch_int4_gemm(p, launch);
}

void run_kernel(const cuda::Int8GemmParams& p, const cuda::Launch& launch) {
  cuda::launch_int8_gemm(p, launch);
}

void run_kernel(const cuda::HalfGemmParams& p, const cuda::Launch& launch) {
  cuda::launch_half_gemm(p, launch);
}

void run_kernel(const cuda::FloatGemmParams& p, const cuda::Launch& launch) {
  cuda::launch_float_gemm(p, launch);
}

void run_kernel(const cuda::QkvAppendParams& p, const cuda::Launch& launch) {
  cuda::launch_qkv_append(p, launch);
}

void run_kernel(const cuda::PagedAttentionParams& p, const cuda::Launch& launch) {
  cuda::launch_paged_attention(p, launch);
}

void run_kernel(const cuda::PrefillAttentionParams& p, const cuda::Launch& launch) {
  cuda::launch_prefill_attention(p, launch);
}

void run_kernel(const cuda::PageCopyParams& p, const cuda::Launch& launch) {
  cuda::launch_page_copy(p, launch);
}

void run_kernel(const cuda::SamplingParams& p, const cuda::Launch& launch) {
  cuda::launch_sampling(p, launch);
}

void run_kernel(const cuda::AdvanceParams& p, const cuda::Launch& launch) {
  cuda::launch_advance(p, launch);
}

}  // namespace tgv::model
