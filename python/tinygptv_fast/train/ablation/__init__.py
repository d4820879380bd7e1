"""The paper's ablation (Table 4) at small scale: a stock Phi that has learnt to answer about scenes in words becomes a
TinyGPT-V in the four stages, whole and with one part left out at a time. ``python -m tinygptv_fast.train.ablation``.
"""
