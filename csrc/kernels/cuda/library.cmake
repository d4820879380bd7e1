# libtinygptv_cuda.so: the table of library.h, and of higher levels what instantiates the kernels
# (model/cuda/kernels.cc) and runs them.
add_library(tinygptv_cuda MODULE cuda/library.cu cuda/int4_gemv.cc
  cuda/paged_attention.cc cuda/prefill_attention.cc
  cuda/norm.cc cuda/qkv_append.cc cuda/page_copy.cc cuda/embedding.cc
  cuda/sampling.cc cuda/advance.cc)
target_sources(tinygptv_cuda PRIVATE cuda/gemm.cc cuda/int4_gemm.cc cuda/half_gemm.cc
  cuda/float_gemm.cc cuda/int8_gemm.cc)
target_include_directories(tinygptv_cuda PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
set_target_properties(tinygptv_cuda PROPERTIES
  CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden)
install(TARGETS tinygptv_cuda DESTINATION tinygptv_fast COMPONENT python)
