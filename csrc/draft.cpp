#include "draft.h"

#include <algorithm>

namespace trilens {

uint64_t Draft::gram(size_t end) const {
  uint64_t hash = 0;
  for (int i = GRAM; i > 0; i--) hash = (hash ^ (uint32_t)tokens_[end - i]) * 0x9E3779B97F4A7C15ull, hash ^= hash >> 29;
  return hash;
}

// Every place but the last is entered: the last one is what is looked for.
void Draft::index() {
  for (size_t end = before_.size(); end < tokens_.size(); end++) {
    before_.push_back(-1);
    if (end < GRAM) continue;
    auto [at, fresh] = latest_.try_emplace(gram(end), (int32_t)end);
    if (!fresh) before_[end] = at->second, at->second = (int32_t)end;
  }
}

const std::vector<int32_t>& Draft::propose(int most, double plain, double worth, double row) {
  proposed_.clear();
  match_ = 0;
  most = std::min(most, MOST_DRAFT);
  if (most < 1 || tokens_.size() <= GRAM) return proposed_;
  if (!always_ && spent_ - saved_ > LOSS * elapsed_ + STAKE * plain) return proposed_;
  index();
  const size_t end = tokens_.size();
  auto found = latest_.find(gram(end));
  if (found == latest_.end()) return proposed_;
  size_t from = 0;
  int32_t place = found->second;
  for (int i = 0; i < CANDIDATES && place >= 0 && match_ < LONGEST; i++, place = before_[place]) {
    int equal = 0;
    while (equal < LONGEST && equal < place && tokens_[place - 1 - equal] == tokens_[end - 1 - equal]) equal++;
    if (equal > match_) match_ = equal, from = place;
  }
  if (match_ < GRAM) return proposed_;  // another gram with the same hash
  const Record& known = record(match_);
  double right = known.right / known.tried, reached = 1;
  for (size_t at = from; (int)proposed_.size() < most; at++) {
    reached *= right;
    if (!always_ && reached * worth <= row) break;
    // behind the end it goes on with what it proposes itself: text that repeats with a short period
    proposed_.push_back(at < end ? tokens_[at] : proposed_[at - end]);
  }
  return proposed_;
}

void Draft::judged(int accepted, double cost, double saved) {
  Record& r = record(match_);
  r.right += accepted;
  r.tried += accepted + (accepted < (int)proposed_.size());
  if (r.tried > 64) r.right /= 2, r.tried /= 2;  // a text changes its nature
  spent_ += cost;
  saved_ += saved;
}

}  // namespace trilens
