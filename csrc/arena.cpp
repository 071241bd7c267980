#include "arena.h"

#include "system.h"

namespace trilens {

uint8_t* Arena::take(size_t bytes) {
  bytes = (bytes + 63) / 64 * 64;
  if (used_ + bytes > size_) {
    size_ = bytes > PIECE ? (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE : PIECE;
    pieces_.emplace_back((uint8_t*)::operator new[](size_, std::align_val_t(HUGE_PAGE)));
    used_ = 0;
    want_huge_pages(pieces_.back().get(), size_);
  }
  uint8_t* at = pieces_.back().get() + used_;
  used_ += bytes;
  return at;
}

}  // namespace trilens
