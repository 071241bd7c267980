// Memory for weights, in tasks that the system can back with huge pages: a product that waits for memory waits less (up to
// a third) when the processor need not look up every 4 KiB.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace trilens {

class Arena {
 public:
  uint8_t* take(size_t bytes);  // 64-byte aligned, for as long as the arena stands

 private:
  static constexpr size_t HUGE_PAGE = 2 << 20, PIECE = 32 * HUGE_PAGE;
  struct Free {
    void operator()(uint8_t* p) const { ::operator delete[](p, std::align_val_t(HUGE_PAGE)); }
  };
  std::vector<std::unique_ptr<uint8_t[], Free>> pieces_;
  size_t used_ = 0, size_ = 0;  // of the last task
};

}  // namespace trilens
