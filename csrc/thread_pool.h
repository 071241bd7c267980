// The engine's own threads. A step is a row of phases; a phase is a number of tasks that any thread may do in any order.
// Who finishes a phase's last task opens the next one, and does phases of one task on the way itself, so a thread that
// the system has put to sleep holds nobody up unless it sleeps inside a task.
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
  virtual int begin(int phase) = 0;  // prepares a phase and says how many tasks it has
  virtual void run(int phase, int task, int thread) = 0;
};

class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  int size() const { return size_; }
  void run(Work& work, int phases);  // returns when all are done; one caller at a time

 private:
  struct alignas(64) Slot {
    std::atomic<uint64_t> state{0};  // epoch, next task, end: 24, 20 and 20 bits
  };
  void live(int thread);
  void drain(uint32_t epoch, int thread);
  void advance(int thread);
  bool take(Slot& slot, uint32_t epoch, int& task);
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

constexpr int MOST_TASKS = (1 << 20) - 1;

}  // namespace trilens
