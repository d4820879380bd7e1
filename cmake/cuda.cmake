# Turns CUDA on for TINYGPTV_CUDA=native (the GPU of this machine) or all (every GPU we support).
if(TINYGPTV_CUDA STREQUAL "off")
  return()
endif()
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
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
# Static: loads beside whatever CUDA torch brings.
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
