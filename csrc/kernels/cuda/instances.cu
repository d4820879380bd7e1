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

template __global__ void prefill_attention<KvKind::kF16, 64>(const PrefillAttentionParams, int);
template __global__ void prefill_attention<KvKind::kF16, 80>(const PrefillAttentionParams, int);
template __global__ void prefill_attention<KvKind::kBF16, 64>(const PrefillAttentionParams, int);
template __global__ void prefill_attention<KvKind::kBF16, 80>(const PrefillAttentionParams, int);
template __global__ void prefill_attention<KvKind::kI8, 64>(const PrefillAttentionParams, int);
template __global__ void prefill_attention<KvKind::kI8, 80>(const PrefillAttentionParams, int);
template __global__ void prefill_attention<KvKind::kE4M3, 64>(const PrefillAttentionParams, int);
template __global__ void prefill_attention<KvKind::kE4M3, 80>(const PrefillAttentionParams, int);

}  // namespace tgv::cuda
