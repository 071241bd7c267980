#include "machine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>

#include "thread_pool.h"

namespace trilens {

namespace {

constexpr size_t PIECE = 1 << 17;  // words: 1 MiB

// All threads fill the memory too: where they waited for one of them, it would look as if other programs ran.
struct Filling : Work {
  uint64_t* words;
  int pieces;

  int begin(int) override { return pieces; }
  void run(int, int task, int) override { std::fill_n(words + task * PIECE, PIECE, 1); }
};

struct Reading : Work {
  const uint64_t* words;
  int pieces;
  std::atomic<uint64_t> seen{0};

  int begin(int) override { return pieces; }
  void run(int, int task, int) override {
    uint64_t sums[8] = {};  // wide enough for the compiler to use whatever vectors there are
    const uint64_t* at = words + task * PIECE;
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
  int pieces = (int)(bytes / sizeof(uint64_t) / PIECE);
  std::unique_ptr<uint64_t[]> words(new uint64_t[pieces * PIECE]);
  Filling filling;
  filling.words = words.get(), filling.pieces = pieces;
  team.run(filling, 1);
  Reading reading;
  reading.words = words.get(), reading.pieces = pieces;
  double best = 0;
  for (int r = 0; r < repeats; r++) {
    auto start = std::chrono::steady_clock::now();
    team.run(reading, 1);
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, pieces * PIECE * sizeof(uint64_t) / seconds);
  }
  return best;
}

}  // namespace trilens
