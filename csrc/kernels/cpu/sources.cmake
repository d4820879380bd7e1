# Sources of kernels/cpu. A new op adds its lines here (docs/adding_an_op.md):
#   target_sources(tgv_kernels PRIVATE ${CMAKE_CURRENT_LIST_DIR}/<op>.cc)
#   tgv_add_isa_sources(tgv_kernels avx2 cpu/avx2/<op>.cc)
