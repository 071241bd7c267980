#include "cache.h"

#include <algorithm>
#include <cstring>

#include "system.h"

namespace trilens {

static size_t rounded(size_t n) { return (n + 63) / 64 * 64; }

Pool::Pool(std::vector<CacheShape> shapes_, KV kind_, size_t limit_bytes, int most_rows, const std::vector<int>& fixed,
           int snapshot_every_)
    : shapes(std::move(shapes_)), kind(kind_), limit(limit_bytes), fixed_sizes(fixed),
      snapshot_every(fixed.empty() ? 0 : snapshot_every_), most_rows_(most_rows), owner_(process_number()), free_(shapes.size()) {
  for (int floats : fixed) {
    fixed_offsets.push_back(fixed_floats);
    fixed_floats += floats;
  }
}

float* Pool::take_fixed() {
  size_t bytes = fixed_floats * sizeof(float);
  std::lock_guard lock(mutex_);
  float* floats;
  if (spare_.empty()) {
    floats = (float*)::operator new[](bytes, std::align_val_t(FIXED_ALIGNMENT));
    want_huge_pages(floats, bytes);
  } else {
    floats = spare_.back().release();
    spare_.pop_back();
  }
  bytes_in_use_ += bytes;
  fixed_held_ += bytes;
  return floats;
}

void Pool::give_back_fixed(float* floats) {
  if (process_number() != owner_) return;
  std::unique_ptr<float[], Floats> room(floats);
  std::lock_guard lock(mutex_);
  bytes_in_use_ -= fixed_floats * sizeof(float);
  fixed_held_ -= fixed_floats * sizeof(float);
  if (spare_.size() < most_spare_) spare_.push_back(std::move(room));
}

void Pool::spare_fixed(size_t most) {
  std::lock_guard lock(mutex_);
  most_spare_ = most;
  if (spare_.size() > most) spare_.resize(most);
}

size_t Pool::fixed_in_use() const {
  std::lock_guard lock(mutex_);
  return fixed_held_;
}

size_t Pool::head_bytes(int cache) const {
  const CacheShape& s = shapes[cache];
  size_t columns = s.key_dim + (s.latent ? 0 : s.value_dim);
  size_t scales = kind == KV::I8 ? (s.latent ? 1 : 2) * PAGE * sizeof(float) : 0;
  return rounded(columns * PAGE * element_bytes()) + scales;
}

size_t Pool::token_bytes(int cache) const {
  const CacheShape& s = shapes[cache];
  size_t one = (s.key_dim + (s.latent ? 0 : s.value_dim)) * element_bytes() + (kind == KV::I8 ? (s.latent ? 4 : 8) : 0);
  return one * s.kv_heads;
}

KVBlock Pool::block(int cache, const Page& page, int head) const {
  const CacheShape& s = shapes[cache];
  const uint8_t* at = page.bytes.get() + head * head_bytes(cache);
  const uint8_t* values = at + (size_t)s.key_dim * PAGE * element_bytes();
  const float* scales = (const float*)(at + rounded((s.key_dim + (s.latent ? 0 : s.value_dim)) * PAGE * element_bytes()));
  if (kind != KV::I8) scales = nullptr;
  return {at, s.latent ? nullptr : values, scales, s.latent || !scales ? nullptr : scales + PAGE};
}

bool Pool::take(const std::vector<int>& caches, std::vector<Page*>& pages) {
  size_t bytes = 0;
  for (int cache : caches) bytes += page_bytes(cache);
  std::lock_guard lock(mutex_);
  if (bytes_in_use_ - fixed_held_ + bytes > limit) return false;  // pages never wait for fixed states
  for (int cache : caches) pages.push_back(take_one(cache));
  return true;
}

Page* Pool::take_one(int cache) {
  size_t bytes = page_bytes(cache);
  auto& free = free_[cache];
  Page* page;
  if (!free.empty()) {
    page = free.back();
    free.pop_back();
  } else {
    // The limit is of all memory: what lies free as pages of other caches goes back first.
    for (size_t c = 0; c < free_.size() && bytes_held_ + bytes > limit; c++)
      while (!free_[c].empty() && bytes_held_ + bytes > limit) {
        free_[c].back()->bytes.reset();
        empty_.push_back(free_[c].back());
        free_[c].pop_back();
        bytes_held_ -= page_bytes((int)c);
      }
    if (empty_.empty()) {
      all_.push_back(std::make_unique<Page>());
      empty_.push_back(all_.back().get());
    }
    page = empty_.back();
    page->bytes = std::make_unique<uint8_t[]>(bytes);  // zeroed: what is masked must still be a number
    empty_.pop_back();
    bytes_held_ += bytes;
  }
  in_use_++;
  bytes_in_use_ += bytes;
  page->sharers = 1;
  return page;
}

void Pool::share(Page* page) {
  std::lock_guard lock(mutex_);
  page->sharers++;
}

void Pool::give_back(int cache, Page* page) {
  if (process_number() != owner_) return;
  std::lock_guard lock(mutex_);
  if (--page->sharers == 0) {
    free_[cache].push_back(page);
    in_use_--;
    bytes_in_use_ -= page_bytes(cache);
  }
}

void Pool::copy(int cache, Page& to, const Page& from) const { memcpy(to.bytes.get(), from.bytes.get(), page_bytes(cache)); }

size_t Pool::need(int length) const {
  size_t bytes = fixed_floats * sizeof(float);
  for (size_t c = 0; c < shapes.size(); c++) {
    size_t pages = (length + PAGE - 1) / PAGE;
    if (shapes[c].mask) pages = std::min(pages, (size_t)((shapes[c].mask_size + most_rows_) / PAGE + 2));
    bytes += pages * page_bytes((int)c);
  }
  return bytes;
}

size_t Pool::pages_in_use() const {
  std::lock_guard lock(mutex_);
  return in_use_;
}

size_t Pool::bytes_in_use() const {
  std::lock_guard lock(mutex_);
  return bytes_in_use_;
}

Sequence::Sequence(std::shared_ptr<Pool> pool, int request_length_)
    : request_length(request_length_), fixed(pool), pool_(std::move(pool)), pages_(pool_->shapes.size()) {
  size_t need = pool_->need(request_length);
  if (need > pool_->limit)
    throw CacheFull("a sequence of " + std::to_string(request_length) + " tokens needs " + std::to_string(need >> 10) +
                  " KiB of cache, and the page pool has " + std::to_string(pool_->limit >> 10) + "; ask for fewer tokens");
}

Sequence::~Sequence() { free(); }

void Sequence::free() {
  for (size_t c = 0; c < pages_.size(); c++) {
    for (Page* page : pages_[c])
      if (page) pool_->give_back((int)c, page);
    pages_[c].clear();
  }
  std::vector<uint16_t>().swap(routes);
  fixed.clear();
  length = 0;
}

bool Sequence::grow(int tokens) {
  drop_unseen();
  std::vector<int> caches;
  int first = length / PAGE, end = (length + tokens + PAGE - 1) / PAGE;
  for (size_t c = 0; c < pages_.size(); c++)
    for (int block = first; block < end; block++) {
      Page* old = block < (int)pages_[c].size() ? pages_[c][block] : nullptr;
      if (!old || old->sharers != 1) caches.push_back((int)c);
    }
  std::vector<Page*> taken;
  if (caches.empty()) return true;
  if (!pool_->take(caches, taken)) return false;
  size_t next = 0;
  for (size_t c = 0; c < pages_.size(); c++) {
    auto& pages = pages_[c];
    if (end > (int)pages.size()) pages.resize(end, nullptr);
    for (int block = first; block < end && next < taken.size() && caches[next] == (int)c; block++) {
      Page* old = pages[block];
      if (old && old->sharers == 1) continue;
      pages[block] = taken[next++];
      if (old) {
        pool_->copy((int)c, *pages[block], *old);
        pool_->give_back((int)c, old);
      }
    }
  }
  while (next < taken.size()) {  // a sharer let go of its page meanwhile
    pool_->give_back(caches[next], taken[next]);
    next++;
  }
  return true;
}

void Sequence::drop_unseen() {
  for (size_t c = 0; c < pages_.size(); c++) {
    const CacheShape& s = pool_->shapes[c];
    if (!s.mask || length == 0) continue;
    // what the last token saw is kept, so that it can be taken back and computed again
    int keep = first_visible(s.mask, s.mask_size, length - 1) / PAGE;
    for (int block = std::min(keep, (int)pages_[c].size()) - 1; block >= 0 && pages_[c][block]; block--) {
      pool_->give_back((int)c, pages_[c][block]);
      pages_[c][block] = nullptr;
    }
  }
}

bool Sequence::holds(int to) const {
  if (to < 0 || to > length || !fixed.knows(to, length)) return false;
  for (size_t c = 0; c < pages_.size(); c++) {
    const CacheShape& s = pool_->shapes[c];
    for (int block = first_visible(s.mask, s.mask_size, to) / PAGE; block * PAGE < to; block++)
      if (!pages_[c][block]) return false;
  }
  return true;
}

int Sequence::nearest(int to) const {
  to = std::min(to, length);
  while (to > 0 && !holds(to)) to--;
  return std::max(to, 0);
}

bool Sequence::rewind(int to) {
  if (!holds(to)) return false;
  fixed.go_back(to, length);
  length = to;
  routes.resize((size_t)to * route_width);
  for (size_t c = 0; c < pages_.size(); c++)
    while ((int)pages_[c].size() > (to + PAGE - 1) / PAGE) {
      if (pages_[c].back()) pool_->give_back((int)c, pages_[c].back());
      pages_[c].pop_back();
    }
  drop_unseen();
  return true;
}

void Sequence::take_back(int tokens) {
  fixed.go_back(length - tokens, length);
  length -= tokens;
  routes.resize((size_t)length * route_width);
}

std::unique_ptr<Sequence> Sequence::fork(int to, int request_length_) const {
  if (!holds(to)) return nullptr;
  auto copy = std::make_unique<Sequence>(pool_, request_length_);
  copy->length = to;
  copy->adapter = adapter;
  copy->fixed.begin_as(fixed, to, length);
  copy->route_width = route_width;
  copy->routes.assign(routes.begin(), routes.begin() + (size_t)to * route_width);
  for (size_t c = 0; c < pages_.size(); c++) {
    copy->pages_[c].assign(pages_[c].begin(), pages_[c].begin() + (to + PAGE - 1) / PAGE);
    for (Page* page : copy->pages_[c])
      if (page) pool_->share(page);
  }
  copy->drop_unseen();
  return copy;
}

int Sequence::adopt(const std::vector<const Block*>& blocks, int last_tokens) {
  if (length % PAGE || blocks.empty()) return 0;
  for (const Block* b : blocks)
    if (b->pool != pool_) throw Refused("a block of another model's cache");
  int first = length / PAGE, many = (int)blocks.size();
  for (; many > 0; many--) {
    int to = length + (many - 1) * PAGE + (many == (int)blocks.size() ? last_tokens : PAGE);
    const Block& end = *blocks[many - 1];
    bool all = !pool_->fixed_floats || (end.fixed && length + (many - 1) * PAGE + end.tokens == to);
    for (size_t c = 0; c < pages_.size() && all; c++)
      for (int at = first_visible(pool_->shapes[c].mask, pool_->shapes[c].mask_size, to) / PAGE; at * PAGE < to && all; at++)
        all = at < first ? pages_[c][at] != nullptr : blocks[at - first]->pages[c] != nullptr;
    if (all) break;
  }
  if (many == 0) return 0;
  int tokens = (many - 1) * PAGE + (many == (int)blocks.size() ? last_tokens : PAGE);
  for (size_t c = 0; c < pages_.size(); c++) {
    auto& pages = pages_[c];
    if ((int)pages.size() < first + many) pages.resize(first + many, nullptr);
    for (int b = 0; b < many; b++) {
      Page* page = blocks[b]->pages[c];
      if (page) pool_->share(page);
      if (pages[first + b]) pool_->give_back((int)c, pages[first + b]);
      pages[first + b] = page;
    }
  }
  route_width = blocks[0]->route_width;
  for (int b = 0; b < many; b++) {
    int kept = b == (int)blocks.size() - 1 ? last_tokens : PAGE;
    routes.insert(routes.end(), blocks[b]->routes.begin(), blocks[b]->routes.begin() + (size_t)kept * route_width);
  }
  for (int b = 0, at = length; b < many; b++) {
    at += blocks[b]->tokens;
    if (blocks[b]->fixed && at <= length + tokens) fixed.go_on(at, blocks[b]->fixed);
  }
  length += tokens;
  return tokens;
}

size_t Sequence::held_bytes() const {
  size_t bytes = 0;
  for (size_t c = 0; c < pages_.size(); c++)
    bytes += pool_->page_bytes((int)c) * (pages_[c].size() - std::count(pages_[c].begin(), pages_[c].end(), nullptr));
  return bytes;
}

size_t Sequence::kv_bytes() const {
  size_t bytes = 0;
  for (size_t c = 0; c < pages_.size() && length; c++) {
    const CacheShape& s = pool_->shapes[c];
    bytes += (length - first_visible(s.mask, s.mask_size, length - 1)) * pool_->token_bytes((int)c);
  }
  return bytes;
}

Block::Block(const Sequence& of, int number)
    : pool(of.pool()), tokens(std::min(PAGE, of.length - number * PAGE)), route_width(of.route_width) {
  if (number < 0 || tokens <= 0) throw Refused("block " + std::to_string(number) + " is not filled");
  for (size_t c = 0; c < pool->shapes.size(); c++) {
    pages.push_back(of.pages((int)c)[number]);
    if (pages.back()) pool->share(pages.back());
  }
  fixed = of.fixed.at(number * PAGE + tokens);
  auto from = of.routes.begin() + (size_t)number * PAGE * route_width;
  routes.assign(from, from + (size_t)tokens * route_width);
}

Block::Block(std::shared_ptr<Pool> pool_, int tokens_, int route_width_, const uint8_t* data, size_t size)
    : pool(std::move(pool_)), tokens(tokens_), route_width(route_width_) {
  if (tokens < 1 || tokens > PAGE || route_width < 0) throw Refused("a block of " + std::to_string(tokens) + " tokens");
  std::vector<int> caches;
  size_t need = pool->shapes.size() + sizeof(uint16_t) * tokens * route_width, states = pool->fixed_floats * sizeof(float);
  for (size_t c = 0; c < pool->shapes.size(); c++)
    if (c < size && data[c]) caches.push_back((int)c), need += pool->page_bytes((int)c);
  need += states ? 1 : 0;
  bool has_states = states && need <= size && data[need - 1];
  need += has_states ? states : 0;
  if (need != size) throw Refused("a block of " + std::to_string(size) + " bytes, expected " + std::to_string(need));
  std::vector<Page*> taken;
  if (!pool->take(caches, taken)) throw Refused("the page pool is full");
  pages.assign(pool->shapes.size(), nullptr);
  data += pool->shapes.size();
  for (size_t i = 0; i < caches.size(); i++) {
    pages[caches[i]] = taken[i];
    memcpy(taken[i]->bytes.get(), data, pool->page_bytes(caches[i]));
    data += pool->page_bytes(caches[i]);
  }
  routes.resize((size_t)tokens * route_width);
  if (!routes.empty()) memcpy(routes.data(), data, routes.size() * sizeof(uint16_t));  // null must not be copied to
  if (!has_states) return;
  auto snapshot = std::make_shared<Snapshot>(pool);
  memcpy(snapshot->floats(), data + routes.size() * sizeof(uint16_t) + 1, states);
  fixed = std::move(snapshot);
}

Block::~Block() {
  for (size_t c = 0; c < pages.size(); c++)
    if (pages[c]) pool->give_back((int)c, pages[c]);
}

size_t Block::bytes() const {
  size_t sum = fixed ? fixed->bytes() : 0;
  for (size_t c = 0; c < pages.size(); c++) sum += pages[c] ? pool->page_bytes((int)c) : 0;
  return sum;
}

size_t Block::own_bytes() const {
  size_t sum = fixed && fixed.use_count() == 1 ? fixed->bytes() : 0;
  for (size_t c = 0; c < pages.size(); c++) sum += pages[c] && pages[c]->sharers == 1 ? pool->page_bytes((int)c) : 0;
  return sum;
}

// For each cache whether it has a page; the pages; the routes; where the model has fixed states, whether they are here,
// and they.
std::vector<uint8_t> Block::written() const {
  std::vector<uint8_t> out;
  for (Page* page : pages) out.push_back(page != nullptr);
  for (size_t c = 0; c < pages.size(); c++)
    if (pages[c]) out.insert(out.end(), pages[c]->bytes.get(), pages[c]->bytes.get() + pool->page_bytes((int)c));
  const uint8_t* r = (const uint8_t*)routes.data();
  out.insert(out.end(), r, r + routes.size() * sizeof(uint16_t));
  if (pool->fixed_floats) out.push_back(fixed != nullptr);
  const uint8_t* f = fixed ? (const uint8_t*)fixed->floats() : nullptr;
  if (f) out.insert(out.end(), f, f + fixed->bytes());
  return out;
}

}  // namespace trilens
