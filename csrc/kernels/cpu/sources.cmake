# Sources of kernels/cpu. A new op adds its lines here (docs/adding_an_op.md):
#   target_sources(tgv_kernels PRIVATE ${CMAKE_CURRENT_LIST_DIR}/<op>.cc)
#   tgv_add_isa_sources(tgv_kernels avx2 cpu/avx2/<op>.cc)

# -Wno-psabi: a vector type never crosses a call that is not inlined, so how one would be passed does not matter.
foreach(op quantize_int4 norm sampling)
  set(files ${op}.cc avx2/${op}.cc avx512/${op}.cc)
  list(TRANSFORM files PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
  set_source_files_properties(${files} PROPERTIES COMPILE_OPTIONS -Wno-psabi)
endforeach()
target_sources(tgv_kernels PRIVATE ${CMAKE_CURRENT_LIST_DIR}/quantize_int4.cc ${CMAKE_CURRENT_LIST_DIR}/int4_matmul.cc
  ${CMAKE_CURRENT_LIST_DIR}/norm.cc ${CMAKE_CURRENT_LIST_DIR}/embedding.cc
  ${CMAKE_CURRENT_LIST_DIR}/sampling.cc)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  tgv_add_isa_sources(tgv_kernels avx2 cpu/avx2/quantize_int4.cc cpu/avx2/int4_matmul.cc cpu/avx2/norm.cc
                      cpu/avx2/sampling.cc)
  tgv_add_isa_sources(tgv_kernels avxvnni cpu/avxvnni/int4_matmul.cc)
  tgv_add_isa_sources(tgv_kernels avx512 cpu/avx512/quantize_int4.cc cpu/avx512/norm.cc cpu/avx512/sampling.cc)
  tgv_add_isa_sources(tgv_kernels avx512vnni cpu/avx512vnni/int4_matmul.cc)
endif()
