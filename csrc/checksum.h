// A checksum against damage by chance, as fast as memory can be read. Nothing is secret about it.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace trilens {

// Any change within one 64-bit word changes it; others by chance go unseen once in 2^64.
uint64_t checksum(const uint8_t* data, size_t bytes);

// The checksums of each piece of `data`, from one of `cuts` to the next, computed by the threads that call `work`.
class Checksums {
 public:
  Checksums(const uint8_t* data, std::vector<uint64_t> cuts);
  void work();  // returns when no piece is left to be taken
  const std::vector<uint64_t>& sums() const { return sums_; }  // once every call of `work` has returned

 private:
  const uint8_t* data_;
  const std::vector<uint64_t> cuts_;
  std::vector<uint64_t> sums_;
  std::atomic<size_t> next_{0};
};

}  // namespace trilens
