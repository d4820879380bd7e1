// Every kernel instance of the CUDA library, compiled once.
#include "kernels/cuda/launch.cuh"

namespace tgv::cuda {

template __global__ void int4_gemv<32, true, true>(const Int4GemvParams);
template __global__ void int4_gemv<32, true, false>(const Int4GemvParams);
template __global__ void int4_gemv<32, false, true>(const Int4GemvParams);
template __global__ void int4_gemv<32, false, false>(const Int4GemvParams);
template __global__ void int4_gemv<64, true, true>(const Int4GemvParams);
template __global__ void int4_gemv<64, true, false>(const Int4GemvParams);
template __global__ void int4_gemv<64, false, true>(const Int4GemvParams);
template __global__ void int4_gemv<64, false, false>(const Int4GemvParams);
template __global__ void int4_gemv<128, true, true>(const Int4GemvParams);
template __global__ void int4_gemv<128, true, false>(const Int4GemvParams);
template __global__ void int4_gemv<128, false, true>(const Int4GemvParams);
template __global__ void int4_gemv<128, false, false>(const Int4GemvParams);

template __global__ void paged_attention_cuts<KvKind::kF32, 64>(const PagedAttentionParams, int);
template __global__ void paged_attention_cuts<KvKind::kF32, 80>(const PagedAttentionParams, int);
template __global__ void paged_attention_cuts<KvKind::kF16, 64>(const PagedAttentionParams, int);
template __global__ void paged_attention_cuts<KvKind::kF16, 80>(const PagedAttentionParams, int);
template __global__ void paged_attention_cuts<KvKind::kBF16, 64>(const PagedAttentionParams, int);
template __global__ void paged_attention_cuts<KvKind::kBF16, 80>(const PagedAttentionParams, int);
template __global__ void paged_attention_cuts<KvKind::kI8, 64>(const PagedAttentionParams, int);
template __global__ void paged_attention_cuts<KvKind::kI8, 80>(const PagedAttentionParams, int);
template __global__ void paged_attention_cuts<KvKind::kE4M3, 64>(const PagedAttentionParams, int);
template __global__ void paged_attention_cuts<KvKind::kE4M3, 80>(const PagedAttentionParams, int);
template __global__ void paged_attention_merge<64>(const PagedAttentionParams, int);
template __global__ void paged_attention_merge<80>(const PagedAttentionParams, int);

template __global__ void norm_rows<256, 1>(const NormParams);
template __global__ void norm_rows<256, 3>(const NormParams);
template __global__ void norm_rows<512, 4>(const NormParams);

template __global__ void qkv_append<KvKind::kF32, 1>(const QkvAppendParams);
template __global__ void qkv_append<KvKind::kF16, 1>(const QkvAppendParams);
template __global__ void qkv_append<KvKind::kBF16, 1>(const QkvAppendParams);
template __global__ void qkv_append<KvKind::kI8, 1>(const QkvAppendParams);
template __global__ void qkv_append<KvKind::kE4M3, 1>(const QkvAppendParams);
template __global__ void qkv_append<KvKind::kF32, 2>(const QkvAppendParams);
template __global__ void qkv_append<KvKind::kF16, 2>(const QkvAppendParams);
template __global__ void qkv_append<KvKind::kBF16, 2>(const QkvAppendParams);
template __global__ void qkv_append<KvKind::kI8, 2>(const QkvAppendParams);
template __global__ void qkv_append<KvKind::kE4M3, 2>(const QkvAppendParams);

template __global__ void page_copy<4>(const PageCopyParams, int64_t);

template __global__ void embedding_rows<EmbeddingKind::kF32>(const EmbeddingParams, int);
template __global__ void embedding_rows<EmbeddingKind::kF16>(const EmbeddingParams, int);
template __global__ void embedding_rows<EmbeddingKind::kBF16>(const EmbeddingParams, int);
template __global__ void embedding_rows<EmbeddingKind::kI8>(const EmbeddingParams, int);
template __global__ void prefill_attention<KvKind::kF16, 64>(const PrefillAttentionParams, int);
template __global__ void prefill_attention<KvKind::kF16, 80>(const PrefillAttentionParams, int);
template __global__ void prefill_attention<KvKind::kBF16, 64>(const PrefillAttentionParams, int);
template __global__ void prefill_attention<KvKind::kBF16, 80>(const PrefillAttentionParams, int);
template __global__ void prefill_attention<KvKind::kI8, 64>(const PrefillAttentionParams, int);
template __global__ void prefill_attention<KvKind::kI8, 80>(const PrefillAttentionParams, int);
template __global__ void prefill_attention<KvKind::kE4M3, 64>(const PrefillAttentionParams, int);
template __global__ void prefill_attention<KvKind::kE4M3, 80>(const PrefillAttentionParams, int);

template __global__ void int4_gemm<32, 64, true>(const Int4GemmParams, const GemmWork);
template __global__ void int4_gemm<32, 64, false>(const Int4GemmParams, const GemmWork);
template __global__ void int4_gemm<32, 128, true>(const Int4GemmParams, const GemmWork);
template __global__ void int4_gemm<32, 128, false>(const Int4GemmParams, const GemmWork);
template __global__ void int4_gemm<64, 64, true>(const Int4GemmParams, const GemmWork);
template __global__ void int4_gemm<64, 64, false>(const Int4GemmParams, const GemmWork);
template __global__ void int4_gemm<64, 128, true>(const Int4GemmParams, const GemmWork);
template __global__ void int4_gemm<64, 128, false>(const Int4GemmParams, const GemmWork);
template __global__ void int4_gemm<128, 64, true>(const Int4GemmParams, const GemmWork);
template __global__ void int4_gemm<128, 64, false>(const Int4GemmParams, const GemmWork);
template __global__ void int4_gemm<128, 128, true>(const Int4GemmParams, const GemmWork);
template __global__ void int4_gemm<128, 128, false>(const Int4GemmParams, const GemmWork);
template __global__ void half_gemm<HalfElement, 64>(const HalfGemmParams, const GemmWork);
template __global__ void half_gemm<HalfElement, 128>(const HalfGemmParams, const GemmWork);
template __global__ void half_gemm<BFloat16Element, 64>(const HalfGemmParams, const GemmWork);
template __global__ void half_gemm<BFloat16Element, 128>(const HalfGemmParams, const GemmWork);
template __global__ void float_gemm<16>(const FloatGemmParams, const GemmWork);
template __global__ void float_gemm<64>(const FloatGemmParams, const GemmWork);

template __global__ void sample_rows<false>(const SamplingParams);
template __global__ void sample_rows<true>(const SamplingParams);

}  // namespace tgv::cuda
