// What a layer keeps of a sequence in tensors of one size, whatever its length: 32-bit floats that each token overwrites.
#pragma once
#include <cstddef>
#include <map>
#include <memory>
#include <vector>

namespace trilens {

class Pool;

// The fixed states of all layers behind some token, one after the other. It never changes; sequences and blocks share it.
class Snapshot {
 public:
  Snapshot(std::shared_ptr<Pool> pool, const float* floats);
  ~Snapshot();
  Snapshot(const Snapshot&) = delete;
  const float* floats() const { return floats_.data(); }
  size_t bytes() const { return floats_.size() * sizeof(float); }

 private:
  const std::shared_ptr<Pool> pool_;
  const std::vector<float> floats_;
};

// Those of one sequence, and the snapshots of its beginnings by their length. What is zero is behind no token.
class FixedStates {
 public:
  explicit FixedStates(std::shared_ptr<Pool> pool);
  ~FixedStates();
  FixedStates(const FixedStates&) = delete;

  bool any() const { return !now_.empty(); }
  const float* now() const { return now_.data(); }
  void replace(std::vector<float>& next) { now_.swap(next); }  // the step that wrote `next` has succeeded
  void clear();

  void keep(int length);  // a snapshot of what is there now, behind `length` tokens
  bool knows(int to, int length) const { return !any() || to == length || to == 0 || kept_.count(to) != 0; }
  void go_back(int to, int length);                          // to where `knows` says
  void begin_as(const FixedStates& other, int to, int length);  // as `other`, of `length` tokens, was behind `to`
  void go_on(int length, std::shared_ptr<const Snapshot> from);  // as if `length` tokens had been computed here
  std::shared_ptr<const Snapshot> at(int to, int length) const;  // null: nobody kept it
  const std::map<int, std::shared_ptr<const Snapshot>>& kept() const { return kept_; }

 private:
  const std::shared_ptr<Pool> pool_;
  std::vector<float> now_;
  std::map<int, std::shared_ptr<const Snapshot>> kept_;
};

}  // namespace trilens
