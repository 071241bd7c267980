// A checksum against damage by chance, as fast as memory can be read. Nothing is secret about it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace trilens {

// Any change within one 64-bit word changes it; others by chance go unseen once in 2^64.
uint64_t checksum(const uint8_t* data, size_t bytes);

// Of each piece, from one of `cuts` to the next, on `threads` threads.
std::vector<uint64_t> checksums(const uint8_t* data, const std::vector<uint64_t>& cuts, int threads);

}  // namespace trilens
