"""The ops on tensors of a GPU: the engine's CUDA kernels, put on torch's current stream. ``ops.<op>`` comes here by
itself where its tensors, or its packed weights, lie on a GPU; docs/gpu_ops.md says what is different there.
"""
