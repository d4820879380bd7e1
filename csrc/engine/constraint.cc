#include "engine/constraint.h"

#include <algorithm>

namespace tgv::engine {

ConstraintRules::ConstraintRules(const std::vector<int32_t>& eos_ids,
                                 const std::vector<std::string>& stops,
                                 const std::vector<std::string>& bytes)
    : token_bytes(bytes), ends(eos_ids) {
  std::string last;
  for (const std::string& stop : stops) last += stop.back();
  for (size_t id = 0; id < bytes.size() && !stops.empty(); ++id) {
    if (std::ranges::find(stops, bytes[id]) != stops.end()) {
      ends.push_back(static_cast<int32_t>(id));
    }
    if (bytes[id].find_first_of(last) != std::string::npos) {
      may_stop.push_back(static_cast<int32_t>(id));
    }
  }
}

Constraint::Constraint(std::unique_ptr<Grammar> grammar, const ConstraintRules& rules,
                       int64_t ahead)
    : grammar_(std::move(grammar)),
      rules_(rules),
      words_(mask_words(grammar_->vocab())),
      masks_(words_ * static_cast<size_t>(ahead)) {}

std::span<uint32_t> Constraint::bits(int64_t ahead) {
  return std::span(masks_).subspan(static_cast<size_t>(ahead) * words_, words_);
}
std::span<const uint32_t> Constraint::mask(int64_t ahead) const {
  return std::span(masks_).subspan(static_cast<size_t>(ahead) * words_, words_);
}

void Constraint::look_ahead(std::vector<int32_t>& seen, size_t first, const StopStrings& stop,
                            int64_t left) {
  guessed_.clear();
  fill(0, stop, left);
  int64_t guesses = 0;
  bool is_over = false;
  // An end that is guessed ends the row there: no grammar goes on behind it.
  const auto goes_on = [&](int32_t id) {
    return is_allowed(mask(guesses), id) && std::ranges::find(rules_.ends, id) == rules_.ends.end();
  };
  for (size_t i = first; i < seen.size() && !is_over && goes_on(seen[i]); ++i) {
    grammar_->accept(seen[i]);
    if (!rules_.token_bytes.empty()) guessed_ += rules_.token_bytes[static_cast<size_t>(seen[i])];
    ++guesses;
    is_over = grammar_->is_over();
    if (!is_over) fill(guesses, stop, left - guesses);
  }
  grammar_->take_back(guesses);
  if (is_over) --guesses;  // the row would end with it: nothing is chosen after it
  seen.resize(first + static_cast<size_t>(guesses));
}

void Constraint::fill(int64_t ahead, const StopStrings& stop, int64_t left) {
  const std::span<uint32_t> allowed = bits(ahead);
  const bool may_end = grammar_->allow(allowed, left);
  if (!grammar_->rules_ends()) return;
  for (const int32_t id : rules_.ends) set_allowed(allowed, id, may_end);
  if (may_end) return;
  for (const int32_t id : rules_.may_stop) {
    if (!is_allowed(allowed, id)) continue;
    const std::string& piece = rules_.token_bytes[static_cast<size_t>(id)];
    if (stop.would_stop(guessed_, piece)) set_allowed(allowed, id, false);
  }
}

}  // namespace tgv::engine
