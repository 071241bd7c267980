#include "machine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <vector>

#include "thread_pool.h"

namespace trilens {

namespace {

struct Reading : Work {
  std::vector<uint64_t> words;
  std::atomic<uint64_t> seen{0};
  static constexpr size_t PIECE = 1 << 17;  // words: 1 MiB

  int begin(int) override { return (int)(words.size() / PIECE); }
  void run(int, int task, int) override {
    uint64_t sums[8] = {};  // wide enough for the compiler to use whatever vectors there are
    const uint64_t* at = words.data() + task * PIECE;
    for (size_t i = 0; i < PIECE; i += 8)
      for (int lane = 0; lane < 8; lane++) sums[lane] ^= at[i + lane];
    uint64_t all = 0;
    for (uint64_t s : sums) all ^= s;
    seen.fetch_xor(all, std::memory_order_relaxed);  // so that nothing is left out
  }
};

}  // namespace

double memory_read_bytes_per_second(int threads, size_t bytes, int repeats) {
  ThreadPool team(threads);
  Reading reading;
  reading.words.assign(bytes / sizeof(uint64_t) / Reading::PIECE * Reading::PIECE, 1);
  double best = 0;
  for (int r = 0; r < repeats; r++) {
    auto start = std::chrono::steady_clock::now();
    team.run(reading, 1);
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, reading.words.size() * sizeof(uint64_t) / seconds);
  }
  return best;
}

}  // namespace trilens
