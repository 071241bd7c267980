#include "checksum.h"

#include <cstring>
#include <utility>

namespace trilens {

constexpr int LANES = 8;
constexpr size_t AHEAD = 4096;  // the processor itself fetches ahead only within a page
constexpr uint64_t ODD = 0xbf58476d1ce4e5b9;

// One to one in `word` for every `sum`, and in `sum` for every `word`: a difference stays one.
static uint64_t stir(uint64_t sum, uint64_t word) {
  sum = (sum ^ word) * ODD;
  return sum ^ sum >> 32;
}

static uint64_t word_at(const uint8_t* data) {
  uint64_t word;
  memcpy(&word, data, sizeof word);
  return word;
}

uint64_t checksum(const uint8_t* data, size_t bytes) {
  uint64_t lanes[LANES], words[LANES];
  for (int i = 0; i < LANES; i++) lanes[i] = (uint64_t)i + 1;
  size_t at = 0;
  for (; at + sizeof words <= bytes; at += sizeof words) {
    if (at + AHEAD < bytes) __builtin_prefetch(data + at + AHEAD);
    // Read one by one: GCC makes vectors of an array of words, and multiplying those is slower without AVX-512.
    for (int i = 0; i < LANES; i++) lanes[i] = stir(lanes[i], word_at(data + at + i * sizeof(uint64_t)));
  }
  memset(words, 0, sizeof words);
  memcpy(words, data + at, bytes - at);
  uint64_t sum = bytes;
  for (int i = 0; i < LANES; i++) sum = stir(sum, stir(lanes[i], words[i]));
  return sum;
}

Checksums::Checksums(const uint8_t* data, std::vector<uint64_t> cuts)
    : data_(data), cuts_(std::move(cuts)), sums_(cuts_.empty() ? 0 : cuts_.size() - 1) {}

void Checksums::work() {
  for (size_t i; (i = next_++) < sums_.size();) sums_[i] = checksum(data_ + cuts_[i], cuts_[i + 1] - cuts_[i]);
}

}  // namespace trilens
