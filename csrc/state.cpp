#include "state.h"

#include <algorithm>

#include "cache.h"

namespace trilens {

Snapshot::Snapshot(std::shared_ptr<Pool> pool, const float* floats)
    : pool_(std::move(pool)), floats_(floats, floats + pool_->fixed_floats) {
  pool_->hold(bytes());
}

Snapshot::~Snapshot() { pool_->let_go(bytes()); }

FixedStates::FixedStates(std::shared_ptr<Pool> pool) : pool_(std::move(pool)), now_(pool_->fixed_floats, 0.0f) {
  pool_->hold(now_.size() * sizeof(float));
}

FixedStates::~FixedStates() { pool_->let_go(now_.size() * sizeof(float)); }

void FixedStates::clear() {
  std::fill(now_.begin(), now_.end(), 0.0f);
  kept_.clear();
}

std::shared_ptr<const Snapshot> FixedStates::at(int to, int length) const {
  auto found = kept_.find(to);
  if (found != kept_.end()) return found->second;
  return any() && to == length ? std::make_shared<const Snapshot>(pool_, now()) : nullptr;
}

void FixedStates::keep(int length) {
  if (any()) kept_.emplace(length, at(length, length));
}

void FixedStates::go_back(int to, int length) {
  if (!any() || to == length) return;
  auto found = kept_.find(to);
  if (found != kept_.end()) std::copy_n(found->second->floats(), now_.size(), now_.data());
  else std::fill(now_.begin(), now_.end(), 0.0f);
  kept_.erase(kept_.upper_bound(to), kept_.end());
}

void FixedStates::begin_as(const FixedStates& other, int to, int length) {
  now_ = other.now_;
  kept_ = other.kept_;
  go_back(to, length);
}

void FixedStates::go_on(int length, std::shared_ptr<const Snapshot> from) {
  std::copy_n(from->floats(), now_.size(), now_.data());
  kept_.emplace(length, std::move(from));
}

}  // namespace trilens
