#include "draft.h"

#include <algorithm>

namespace trilens {

uint64_t Draft::Index::hash(const std::vector<int32_t>& tokens, size_t end) const {
  uint64_t hash = 0;
  for (int i = gram; i > 0; i--) hash = (hash ^ (uint32_t)tokens[end - i]) * 0x9E3779B97F4A7C15ull, hash ^= hash >> 29;
  return hash;
}

// Every place but the last is entered: the last one is what is looked for.
void Draft::Index::reach(const std::vector<int32_t>& tokens) {
  for (size_t end = before.size(); end < tokens.size(); end++) {
    before.push_back(-1);
    if (end < (size_t)gram) continue;
    auto [at, fresh] = latest.try_emplace(hash(tokens, end), (int32_t)end);
    if (!fresh) before[end] = at->second, at->second = (int32_t)end;
  }
}

bool Draft::pays(const Prices& prices) const {
  return prices.plain > 0 && (always_ || spent_ - saved_ <= LOSS * elapsed_ + STAKE * prices.plain);
}

int Draft::forced(int most, const Prices& prices) const {
  most = std::min(most, most_);
  if (!pays(prices)) return 0;
  int count = 0;
  double right = forced_.right / forced_.tried, reached = right;
  while (count < most && (always_ || reached * prices.worth > prices.row)) count++, reached *= right;
  return count;
}

// Where the tokens that the last ones match ended; `match_` is how many are equal. They may be fewer than a run: another
// one can have its hash.
size_t Draft::longest_match(Index& index) {
  index.reach(tokens_);
  match_ = 0;
  const size_t end = tokens_.size();
  if (end < (size_t)index.gram) return 0;
  auto found = index.latest.find(index.hash(tokens_, end));
  size_t from = 0;
  int32_t place = found == index.latest.end() ? -1 : found->second;
  for (int i = 0; i < CANDIDATES && place >= 0 && match_ < LONGEST; i++, place = index.before[place]) {
    int equal = 0;
    while (equal < LONGEST && equal < place && tokens_[place - 1 - equal] == tokens_[end - 1 - equal]) equal++;
    if (equal > match_) match_ = equal, from = place;
  }
  return from;
}

const std::vector<int32_t>& Draft::propose(int most, const Prices& prices) {
  proposed_.clear();
  match_ = 0;
  most = std::min(most, most_);
  if (most < 1 || !pays(prices)) return proposed_;
  const size_t end = tokens_.size();
  size_t from = longest_match(long_);
  if (match_ < LONG) from = longest_match(short_);
  if (match_ < SHORT) return proposed_;
  const Record& known = record(match_);
  double right = known.right / known.tried, reached = 1;
  for (size_t at = from; (int)proposed_.size() < most; at++) {
    reached *= right;
    if (!always_ && reached * prices.worth <= prices.row) break;
    // behind the end it goes on with what it proposes itself: text that repeats with a short period
    proposed_.push_back(at < end ? tokens_[at] : proposed_[at - end]);
  }
  return proposed_;
}

void Draft::Record::add(int accepted, int proposed) {
  right += accepted;
  tried += accepted + (accepted < proposed);
  if (tried > 64) right /= 2, tried /= 2;  // a text changes its nature
}

bool Draft::predicts(const Prices& prices) const {
  const double right = predicted_.right / predicted_.tried;
  return pays(prices) && (always_ || right * prices.worth > prices.row + predicting_);
}

void Draft::predicted(double seconds) {
  predicting_ += (seconds - predicting_) / (predicting_ > 0 ? 8 : 1);
  spent_ += seconds;
}

void Draft::judged(int looked_up, int predicted, int proposed, int accepted, double cost, double saved) {
  const int sought = looked_up + predicted;
  if (predicted) predicted_.add(std::min(accepted, predicted), predicted);
  else record(match_).add(std::min(accepted, looked_up), looked_up);
  if (accepted >= sought) forced_.add(accepted - sought, proposed - sought);
  spent_ += cost;
  saved_ += saved;
}

}  // namespace trilens
