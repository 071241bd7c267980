#include "thread_pool.h"

#include <chrono>

#include "system.h"

namespace trilens {

constexpr uint32_t EPOCHS = 1 << 24;
constexpr auto PATIENCE = std::chrono::microseconds(50);  // before a waiting thread goes to sleep

ThreadPool::ThreadPool(int threads) : size_(threads), owner_(process_number()), slots_(new Slot[threads]) {
  for (int t = 1; t < threads; t++) threads_.emplace_back([this, t] { live(t); });
}

ThreadPool::~ThreadPool() {
  if (process_number() != owner_) {  // a child that was forked from the threads' process has none to wait for
    new std::vector<std::thread>(std::move(threads_));
    return;
  }
  stop_ = true;
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void ThreadPool::run(Work& work, int phases) {
  work_ = &work;
  phase_ = -1;
  phases_ = phases;
  finished_.store(false, std::memory_order_relaxed);
  advance(0);
  while (!finished_.load(std::memory_order_acquire)) {
    uint32_t epoch = epoch_.load(std::memory_order_acquire);
    drain(epoch, 0);
    if (!finished_.load(std::memory_order_acquire)) wait(epoch);
  }
}

void ThreadPool::live(int thread) {
  uint32_t epoch = 0;
  while (true) {
    wait(epoch);
    epoch = epoch_.load(std::memory_order_acquire);
    if (stop_) return;
    drain(epoch, thread);
  }
}

bool ThreadPool::take(Slot& slot, uint32_t epoch, int& task) {
  uint64_t state = slot.state.load(std::memory_order_acquire);
  while (state >> 40 == epoch % EPOCHS && (state >> 20 & MOST_TASKS) < (state & MOST_TASKS)) {
    if (slot.state.compare_exchange_weak(state, state + (1 << 20), std::memory_order_acq_rel)) {
      task = (int)(state >> 20 & MOST_TASKS);
      return true;
    }
  }
  return false;
}

void ThreadPool::drain(uint32_t epoch, int thread) {
  int task;
  for (int t = 0; t < size_; t++)  // first one's own share, then what is left of the others'
    while (take(slots_[(thread + t) % size_], epoch, task)) {
      work_->run(phase_, task, thread);
      if (remaining_.fetch_sub(1, std::memory_order_acq_rel) == 1) return advance(thread);
    }
}

void ThreadPool::advance(int thread) {
  while (++phase_ < phases_) {
    int tasks = work_->begin(phase_);
    if (tasks == 0) continue;
    if (tasks == 1) {
      work_->run(phase_, 0, thread);
      continue;
    }
    uint32_t epoch = epoch_.load(std::memory_order_relaxed) + 1;
    remaining_.store((uint32_t)tasks, std::memory_order_relaxed);
    for (int t = 0; t < size_; t++) {
      uint64_t first = (uint64_t)tasks * t / size_, end = (uint64_t)tasks * (t + 1) / size_;
      slots_[t].state.store((uint64_t)(epoch % EPOCHS) << 40 | first << 20 | end, std::memory_order_release);
    }
    epoch_.store(epoch, std::memory_order_release);
    epoch_.notify_all();
    return;
  }
  finished_.store(true, std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_acq_rel);
  epoch_.notify_all();
}

void ThreadPool::wait(uint32_t epoch) {
  auto start = std::chrono::steady_clock::now();
  for (int i = 1; epoch_.load(std::memory_order_acquire) == epoch; i++) {
    pause_briefly();
    if (i % 32 == 0 && std::chrono::steady_clock::now() - start > PATIENCE) {
      epoch_.wait(epoch, std::memory_order_acquire);
      return;
    }
  }
}

}  // namespace trilens
