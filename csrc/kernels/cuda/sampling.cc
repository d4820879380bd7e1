#include "kernels/cuda/sampling.h"

#include "base/errors.h"

namespace tgv::cuda {

int64_t sampling_bytes(const SamplingParams& p) {
  const int64_t result = 8 + 8 * int64_t{p.top};
  return p.sequences *
         (4 * int64_t{p.vocab} + static_cast<int64_t>(sizeof(SamplingSettings)) + 8 + result);
}

std::string sampling_why_not(const SamplingParams& p) {
  if (p.sequences < 1 || p.sequences > 65535) {
    return concat("S is ", p.sequences, ", expected 1..65535");
  }
  if (p.vocab < 1 || p.vocab > 1 << 22) return concat("V is ", p.vocab, ", expected 1..2^22");
  if (p.logits_stride < p.vocab) {
    return concat("logits_stride is ", p.logits_stride, ", expected at least V = ", p.vocab);
  }
  const int32_t most = p.vocab < kSamplingMaxTop ? p.vocab : kSamplingMaxTop;
  if (p.top < 0 || p.top > most) return concat("top is ", p.top, ", expected 0..", most);
  if (!p.logits || !p.settings || !p.positions) return "logits, settings or positions is null";
  if (!p.ids || !p.logprobs) return "ids or logprobs is null";
  if (p.top > 0 && (!p.top_ids || !p.top_logprobs)) return "top needs top_ids and top_logprobs";
  if (p.history && (!p.row || !p.counts)) return "history needs row and counts";
  if (!p.bias_ids != !p.bias_values) return "bias_ids and bias_values go together, one is null";
  if ((p.bias_ids || p.banned_ids) && !p.row) return "bias_ids and banned_ids need row";
  return "";
}

}  // namespace tgv::cuda
