#include "state.h"

#include "cache.h"

namespace trilens {

Snapshot::Snapshot(std::shared_ptr<Pool> pool) : pool_(std::move(pool)), floats_(pool_->take_fixed()) {}

Snapshot::~Snapshot() { pool_->give_back_fixed(floats_); }

size_t Snapshot::bytes() const { return pool_->fixed_floats * sizeof(float); }

FixedStates::FixedStates(std::shared_ptr<Pool> pool) : pool_(std::move(pool)) {}

bool FixedStates::any() const { return pool_->fixed_floats != 0; }

void FixedStates::clear() {
  now_.reset();
  kept_.clear();
  tried_.clear();
  asked_.clear();
}

std::shared_ptr<const Snapshot> FixedStates::at(int to) const {
  auto found = kept_.find(to);
  return found == kept_.end() ? nullptr : found->second;
}

void FixedStates::keep(int length) {
  if (now_) keep(length, now_);
}

void FixedStates::keep(int length, std::shared_ptr<const Snapshot> snapshot) {
  kept_.emplace(length, std::move(snapshot));
  asked_.erase(asked_.begin(), asked_.upper_bound(length));
}

void FixedStates::ask(int length) {
  if (any()) asked_.insert(length);
}

std::vector<int> FixedStates::places(int length, int count) const {
  std::set<int> places(asked_.upper_bound(length), asked_.upper_bound(length + count));
  if (int every = pool_->snapshot_every)
    for (int place = (length / every + 1) * every; place <= length + count; place += every) places.insert(place);
  return {places.begin(), places.end()};
}

void FixedStates::go_back(int to, int length) {
  if (!any() || to == length) return;
  auto tried = tried_.find(to);
  now_ = tried == tried_.end() ? at(to) : tried->second;
  kept_.erase(kept_.upper_bound(to), kept_.end());
}

void FixedStates::begin_as(const FixedStates& other, int to, int length) {
  now_ = other.now_;
  kept_ = other.kept_;
  tried_ = other.tried_;
  go_back(to, length);
  tried_.clear();
}

void FixedStates::go_on(int length, std::shared_ptr<const Snapshot> from) {
  now_ = from;
  kept_.emplace(length, std::move(from));
}

size_t FixedStates::kept_bytes() const { return kept_.size() * pool_->fixed_floats * sizeof(float); }

}  // namespace trilens
