#include "checksum.h"

#include <atomic>
#include <cstring>
#include <thread>

namespace trilens {

constexpr int LANES = 8;
constexpr uint64_t ODD = 0xbf58476d1ce4e5b9;

// One to one in `word` for every `sum`, and in `sum` for every `word`: a difference stays one.
static uint64_t stir(uint64_t sum, uint64_t word) {
  sum = (sum ^ word) * ODD;
  return sum ^ sum >> 32;
}

uint64_t checksum(const uint8_t* data, size_t bytes) {
  uint64_t lanes[LANES], words[LANES];
  for (int i = 0; i < LANES; i++) lanes[i] = (uint64_t)i + 1;
  size_t at = 0;
  for (; at + sizeof words <= bytes; at += sizeof words) {
    memcpy(words, data + at, sizeof words);
    for (int i = 0; i < LANES; i++) lanes[i] = stir(lanes[i], words[i]);
  }
  memset(words, 0, sizeof words);
  memcpy(words, data + at, bytes - at);
  uint64_t sum = bytes;
  for (int i = 0; i < LANES; i++) sum = stir(sum, stir(lanes[i], words[i]));
  return sum;
}

std::vector<uint64_t> checksums(const uint8_t* data, const std::vector<uint64_t>& cuts, int threads) {
  size_t pieces = cuts.empty() ? 0 : cuts.size() - 1;
  std::vector<uint64_t> sums(pieces);
  std::atomic<size_t> next{0};
  auto work = [&] {
    for (size_t i; (i = next++) < pieces;) sums[i] = checksum(data + cuts[i], cuts[i + 1] - cuts[i]);
  };
  std::vector<std::thread> others;
  for (int t = 1; t < threads && (size_t)t < pieces; t++) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  return sums;
}

}  // namespace trilens
