# Sources of kernels/cpu. A new op adds its line here (docs/adding_an_op.md).
#
# tgv_cpu_op(<op> [<isa>...]): <op>.cc, and <isa>/<op>.cc with the flags of each instruction set.
# -Wno-psabi: a vector type never crosses a call that is not inlined, so how one would be passed does not matter.
# -Wno-uninitialized: GCC's own AVX-512 header makes undefined vectors of themselves and warns about it.
function(tgv_cpu_op op)
  set(files ${op}.cc)
  target_sources(tgv_kernels PRIVATE ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/${op}.cc)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    foreach(isa ${ARGN})
      list(APPEND files ${isa}/${op}.cc)
      tgv_add_isa_sources(tgv_kernels ${isa} cpu/${isa}/${op}.cc)
    endforeach()
  endif()
  list(TRANSFORM files PREPEND ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/)
  set_source_files_properties(${files} PROPERTIES COMPILE_OPTIONS
                              "-Wno-psabi;-Wno-uninitialized;-Wno-maybe-uninitialized")
endfunction()

tgv_cpu_op(embedding)
tgv_cpu_op(linear avx2 avxvnni avx512 avx512vnni)
tgv_cpu_op(linear_pack)
tgv_cpu_op(linear_probe)
tgv_cpu_op(matmul)
tgv_cpu_op(norm avx2 avx512)
tgv_cpu_op(paged_attention avx2 avx512)
tgv_cpu_op(qkv_append avx2 avx512)
tgv_cpu_op(quantize_int4 avx2 avx512)
tgv_cpu_op(sampling avx2 avx512)
