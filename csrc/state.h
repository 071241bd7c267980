// What a layer keeps of a sequence in tensors of one size, whatever its length: 32-bit floats that each token overwrites.
#pragma once
#include <cstddef>
#include <map>
#include <memory>
#include <set>
#include <vector>

namespace trilens {

class Pool;

// The fixed states of all layers behind some token, one after the other. A step writes it; from then on it never changes,
// so sequences, their forks and blocks share it, and a snapshot costs no copy.
class Snapshot {
 public:
  explicit Snapshot(std::shared_ptr<Pool> pool);  // numbers of any kind, to be written
  ~Snapshot();
  Snapshot(const Snapshot&) = delete;
  const float* floats() const { return floats_; }
  float* floats() { return floats_; }
  size_t bytes() const;

 private:
  const std::shared_ptr<Pool> pool_;
  float* const floats_;
};

// Those of one sequence, and the snapshots of its beginnings by their length. What is zero is behind no token.
class FixedStates {
 public:
  explicit FixedStates(std::shared_ptr<Pool> pool);
  FixedStates(const FixedStates&) = delete;

  bool any() const;
  const float* now() const { return now_ ? now_->floats() : nullptr; }  // null: all zero
  void replace(std::shared_ptr<const Snapshot> next) { now_ = std::move(next); }  // the step that wrote `next` has succeeded
  void clear();

  void keep(int length);  // what is there now, behind `length` tokens
  void keep(int length, std::shared_ptr<const Snapshot> snapshot);
  void try_out(int length, std::shared_ptr<const Snapshot> snapshot) { tried_[length] = std::move(snapshot); }  // until the next step
  void settle() { tried_.clear(); }
  void ask(int length);  // that the step which reaches this length keeps a snapshot there
  std::vector<int> places(int length, int count) const;  // lengths at which `count` more tokens are to leave snapshots
  bool knows(int to, int length) const { return !any() || to == length || to == 0 || kept_.count(to) || tried_.count(to); }
  void go_back(int to, int length);                          // to where `knows` says
  void begin_as(const FixedStates& other, int to, int length);  // as `other`, of `length` tokens, was behind `to`
  void go_on(int length, std::shared_ptr<const Snapshot> from);  // as if `length` tokens had been computed here
  std::shared_ptr<const Snapshot> at(int to) const;  // null: nobody kept it
  size_t kept_bytes() const;                         // of the snapshots

 private:
  const std::shared_ptr<Pool> pool_;
  std::shared_ptr<const Snapshot> now_;
  std::map<int, std::shared_ptr<const Snapshot>> kept_;
  std::map<int, std::shared_ptr<const Snapshot>> tried_;  // of a step whose last tokens may be taken back
  std::set<int> asked_;
};

}  // namespace trilens
