// Keys and values in pages of 64 positions. A page belongs to one cache of the model; sequences with a common beginning
// share its pages until one of them writes.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace trilens {

struct Refused : std::runtime_error { using runtime_error::runtime_error; };

struct CacheShape {
  int kv_heads, key_dim, value_dim;
  bool latent;
  int mask, mask_size;  // 0 full, 1 window, 2 chunk
};

inline int first_visible(int mask, int size, int position) {
  if (mask == 1) return position - size + 1 > 0 ? position - size + 1 : 0;
  return mask == 2 ? position - position % size : 0;
}

struct Page {
  std::unique_ptr<uint8_t[]> bytes;
  std::atomic<int> sharers{0};  // asked without the pool's lock: at 1 the page is one's own
};

// All pages of one model. Pages that were given back are kept for the next one who asks. Any thread may; a sequence is
// one thread's at a time.
class Pool {
 public:
  Pool(std::vector<CacheShape> shapes, KV kind, size_t limit_bytes, int most_rows);

  const std::vector<CacheShape> shapes;
  const KV kind;

  size_t page_bytes(int cache) const { return head_bytes(cache) * shapes[cache].kv_heads; }
  KVBlock block(int cache, const Page& page, int head) const;
  size_t element_bytes() const { return kind == KV::F32 ? 4 : kind == KV::F16 ? 2 : 1; }
  size_t token_bytes(int cache) const;  // what one token keeps in it, scales included

  Page* take(int cache);
  void share(Page* page);
  void give_back(int cache, Page* page);
  void copy(int cache, Page& to, const Page& from) const;

  void reserve(size_t bytes);  // refuses a sequence that would not fit
  void release(size_t bytes);
  size_t need(int length) const;  // bytes that a sequence of `length` tokens may come to hold
  size_t pages_in_use() const;
  size_t reserved() const;

 private:
  size_t head_bytes(int cache) const;
  const size_t limit_;
  const int most_rows_;
  std::vector<std::vector<Page*>> free_;
  std::vector<std::unique_ptr<Page>> all_;
  size_t in_use_ = 0, reserved_ = 0;
  mutable std::mutex mutex_;
};

struct Table {  // cosines and sines, or factors, one row a position
  std::vector<float> cos, sin;
  int columns = 0, positions = 0;
};

class Sequence {
 public:
  Sequence(std::shared_ptr<Pool> pool, int request_length);
  ~Sequence();
  Sequence(const Sequence&) = delete;

  int request_length;
  int length = 0;
  std::vector<std::shared_ptr<Table>> ropes, scales;
  mutable std::vector<uint16_t> routes;  // [length][route_width]: the experts of each token, layer after layer, by rank
  int route_width = 0;

  void reach(int tokens);      // another request length, not below the tokens that are in it
  void make_room(int tokens);  // pages for the next tokens, its own where they were shared
  void drop_unseen();
  bool rewind(int to);
  std::unique_ptr<Sequence> fork(int to, int request_length) const;  // null where a window has dropped what it needs
  size_t kv_bytes() const;
  size_t reserved() const { return reserved_; }
  const std::vector<Page*>& pages(int cache) const { return pages_[cache]; }
  void free();

 private:
  std::shared_ptr<Pool> pool_;
  size_t reserved_ = 0;
  std::vector<std::vector<Page*>> pages_;  // [cache][block]; null: dropped
};

}  // namespace trilens
