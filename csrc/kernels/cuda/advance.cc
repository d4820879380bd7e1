#include "kernels/cuda/advance.h"

#include "base/errors.h"

namespace tgv::cuda {

std::string advance_why_not(const AdvanceParams& p) {
  if (p.rows < 1 || p.rows > 65535) return concat("B is ", p.rows, ", expected 1..65535");
  if (p.most_steps < 1 || p.most_steps > 1024) {
    return concat("most_steps is ", p.most_steps, ", expected 1..1024");
  }
  if (!p.drawn || !p.logprobs) return "drawn or logprobs is null";
  if (!p.ids || !p.positions || !p.lengths) return "ids, positions or lengths is null";
  if (!p.settings || !p.counters || !p.logit_rows || !p.history || !p.state) {
    return "settings, counters, logit_rows, history or state is null";
  }
  if (!p.answers || !p.steps) return "answers or steps is null";
  return "";
}

}  // namespace tgv::cuda
