// The engine's own threads. A step is a row of phases; a phase is a number of pieces that any thread may do in any order.
// Who finishes a phase's last piece opens the next one, and does phases of one piece on the way itself, so a thread that
// the system has put to sleep holds nobody up unless it sleeps inside a piece.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace trilens {

class Work {
 public:
  virtual ~Work() = default;
  virtual int begin(int phase) = 0;  // prepares a phase and says how many pieces it has
  virtual void run(int phase, int piece, int thread) = 0;
};

class Team {
 public:
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  int size() const { return size_; }
  void run(Work& work, int phases);  // returns when all are done; one caller at a time

 private:
  struct alignas(64) Slot {
    std::atomic<uint64_t> state{0};  // epoch, next piece, end: 24, 20 and 20 bits
  };
  void live(int thread);
  void drain(uint32_t epoch, int thread);
  void advance(int thread);
  bool take(Slot& slot, uint32_t epoch, int& piece);
  void wait(uint32_t epoch);

  const int size_;
  const long owner_;  // the process
  std::unique_ptr<Slot[]> slots_;
  alignas(64) std::atomic<uint32_t> epoch_{0};
  alignas(64) std::atomic<uint32_t> remaining_{0};
  std::atomic<bool> finished_{true}, stop_{false};
  Work* work_ = nullptr;
  int phase_ = 0, phases_ = 0;
  std::vector<std::thread> threads_;
};

constexpr int MOST_PIECES = (1 << 20) - 1;

}  // namespace trilens
