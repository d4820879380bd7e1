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

template __global__ void paged_attention_cuts<64>(const PagedAttentionParams, int);
template __global__ void paged_attention_cuts<80>(const PagedAttentionParams, int);
template __global__ void paged_attention_merge<64>(const PagedAttentionParams, int);
template __global__ void paged_attention_merge<80>(const PagedAttentionParams, int);

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

}  // namespace tgv::cuda
