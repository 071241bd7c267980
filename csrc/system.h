// What the operating system and the processor give. No other file here calls the system or asks what it is.
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace trilens {

long process_number();  // a child that was forked from a process has another

// Asks for huge pages behind this memory. Advice: where it is not taken, nothing else changes.
void want_huge_pages(void* memory, size_t bytes);

class FileChanged : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A file in memory, to be read. Where it is cut, the lost pages read as zeros instead of ending the process with a
// signal, and `check` says so: whoever computes with it asks before the results are handed on.
class MappedFile {
 public:
  MappedFile(int descriptor, size_t bytes, std::string name);  // FileChanged where it cannot be mapped
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  const uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  void check() const;  // FileChanged once it was cut, or written to

 private:
  const std::string name_;
  const size_t bytes_;
  uint8_t* data_ = nullptr;
  int descriptor_ = -1, slot_ = -1;
  int64_t changed_[2] = {};  // when it was, in seconds and nanoseconds
  bool same() const;
};

// Whether the processor has these, and the system keeps their registers. Not the compiler's builtin for it, which zig's
// runtime answers with no.
bool has_avx2();    // with FMA and F16C
bool has_avx512();  // F, BW, VL, DQ and VNNI, and all of the above
bool has_dot_products();  // ARM's, of bytes

void pause_briefly();  // between two looks of a thread that waits

}  // namespace trilens
