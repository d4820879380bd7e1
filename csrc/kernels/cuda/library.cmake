# libtinygptv_cuda.so: every CUDA kernel and the table of library.h; the runtime is linked statically, so that it loads
# beside whatever CUDA torch brings.
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR "TINYGPTV_CUDA is '${TINYGPTV_CUDA}', but no CUDA compiler (nvcc) was found")
endif()
if(TINYGPTV_CUDA STREQUAL "native")
  set(CMAKE_CUDA_ARCHITECTURES native)
else()
  set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90)  # 90 also as PTX, for later GPUs
endif()
enable_language(CUDA)

add_library(tinygptv_cuda MODULE cuda/library.cu cuda/instances.cu cuda/int4_gemv.cc
  cuda/paged_attention.cc)
target_include_directories(tinygptv_cuda PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
set_target_properties(tinygptv_cuda PROPERTIES
  CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_RUNTIME_LIBRARY Static
  CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden)
install(TARGETS tinygptv_cuda DESTINATION tinygptv_fast COMPONENT python)
