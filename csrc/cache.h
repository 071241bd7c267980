// Keys and values in pages of 64 positions. A page belongs to one cache of the model; sequences with a common beginning
// share its pages until one of them writes.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"
#include "state.h"

namespace trilens {

struct Refused : std::runtime_error { using runtime_error::runtime_error; };
struct CacheFull : Refused { using Refused::Refused; };  // now, or even alone

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

// All pages of one model, up to `limit_bytes` in use at a time. Pages that were given back are kept for the next one who
// asks. Any thread may; a sequence is one thread's at a time.
class Pool {
 public:
  // `fixed`: floats of each tensor of a fixed state. `snapshot_every`: tokens after which a sequence keeps a snapshot by
  // itself.
  Pool(std::vector<CacheShape> shapes, KV kind, size_t limit_bytes, int most_rows, const std::vector<int>& fixed = {},
       int snapshot_every = 0);

  const std::vector<CacheShape> shapes;
  const KV kind;
  const size_t limit;
  const std::vector<int> fixed_sizes;
  std::vector<size_t> fixed_offsets;  // of each tensor: its first float among a sequence's
  size_t fixed_floats = 0;            // of all of them
  const int snapshot_every;

  size_t page_bytes(int cache) const { return head_bytes(cache) * shapes[cache].kv_heads; }
  KVBlock block(int cache, const Page& page, int head) const;
  size_t element_bytes() const { return kind == KV::F32 ? 4 : kind == KV::F16 ? 2 : 1; }
  size_t token_bytes(int cache) const;  // what one token keeps in it, scales included

  bool take(const std::vector<int>& caches, std::vector<Page*>& pages);  // a page for each, or none at all
  void share(Page* page);
  void give_back(int cache, Page* page);
  void copy(int cache, Page& to, const Page& from) const;

  float* take_fixed();  // room for all fixed states of a sequence, which never waits for pages nor they for it
  void give_back_fixed(float* floats);
  void spare_fixed(size_t most);  // keep at most so many that were given back, for the next steps

  size_t need(int length) const;  // bytes that a sequence of `length` tokens comes to hold at most
  size_t pages_in_use() const;
  size_t bytes_in_use() const;
  size_t fixed_in_use() const;  // bytes of these that are fixed states

 private:
  struct Floats {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t(FIXED_ALIGNMENT)); }
  };
  static constexpr size_t FIXED_ALIGNMENT = 2 << 20;
  size_t head_bytes(int cache) const;
  Page* take_one(int cache);
  const int most_rows_;
  const long owner_;  // the process; a child that was forked from it leaves the pages alone, for their lock may be held
  std::vector<std::vector<Page*>> free_;
  std::vector<std::unique_ptr<Page>> all_;
  std::vector<Page*> empty_;  // whose memory went to pages of another cache
  std::vector<std::unique_ptr<float[], Floats>> spare_;  // room for fixed states that nobody has now
  size_t most_spare_ = 1;
  size_t in_use_ = 0, bytes_in_use_ = 0, bytes_held_ = 0, fixed_held_ = 0;
  mutable std::mutex mutex_;
};

struct Table {  // cosines and sines, or factors, one row a position
  std::vector<float> cos, sin;
  int columns = 0, positions = 0;
};

class Sequence;

// What 64 positions keep, shared by whoever needs them: a page of each cache (null where a window had dropped it), and
// the experts of their tokens. It never changes.
class Block {
 public:
  Block(const Sequence& of, int number);  // the number-th 64 positions of a sequence, as far as it is filled
  Block(std::shared_ptr<Pool> pool, int tokens, int route_width, const uint8_t* data, size_t bytes);  // see `write`
  ~Block();
  Block(const Block&) = delete;

  const std::shared_ptr<Pool> pool;
  int tokens, route_width;
  std::vector<Page*> pages;  // [cache]
  std::vector<uint16_t> routes;
  std::shared_ptr<const Snapshot> fixed;  // the states behind its last token; null: nobody kept them

  size_t bytes() const;      // of its pages and states
  size_t own_bytes() const;  // of those that nobody else uses
  std::vector<uint8_t> written() const;
};

class Sequence {
 public:
  Sequence(std::shared_ptr<Pool> pool, int request_length);  // refuses what would not fit even alone
  ~Sequence();
  Sequence(const Sequence&) = delete;

  const int request_length;
  int length = 0;
  int adapter = -1;  // its number in the engine; -1: none
  std::vector<std::shared_ptr<Table>> ropes, scales;
  mutable std::vector<uint16_t> routes;  // [length][route_width]: the experts of each token, layer after layer, by rank
  int route_width = 0;
  FixedStates fixed;
  bool wants_behind = false;  // rows behind the last layer, of the tokens of the last step
  std::vector<float> behind;
  int behind_from = 0;        // the position of the first of them

  bool grow(int tokens);  // pages for the next tokens, its own where they were shared; false and nothing taken: there are none
  bool rewind(int to);
  void take_back(int tokens);  // the last ones of the step before, which were proposed; the pages for them stay
  std::unique_ptr<Sequence> fork(int to, int request_length) const;  // null where it does not hold what that needs
  int nearest(int to) const;  // the most tokens up to `to` that it can go back to
  // Go on with these blocks, the last of them up to `last_tokens`; how many tokens that was, for a window may need others.
  int adopt(const std::vector<const Block*>& blocks, int last_tokens);
  size_t kv_bytes() const;
  size_t held_bytes() const;
  const std::vector<Page*>& pages(int cache) const { return pages_[cache]; }
  const std::shared_ptr<Pool>& pool() const { return pool_; }
  void free();

 private:
  bool holds(int to) const;
  void drop_unseen();
  std::shared_ptr<Pool> pool_;
  std::vector<std::vector<Page*>> pages_;  // [cache][block]; null: dropped
};

}  // namespace trilens
