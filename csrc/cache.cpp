#include "cache.h"

#include <algorithm>
#include <cstring>

namespace trilens {

static size_t rounded(size_t n) { return (n + 63) / 64 * 64; }

Pool::Pool(std::vector<CacheShape> shapes_, KV kind_, size_t limit_bytes, int most_rows)
    : shapes(std::move(shapes_)), kind(kind_), limit_(limit_bytes), most_rows_(most_rows), free_(shapes.size()) {}

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

Page* Pool::take(int cache) {
  std::lock_guard lock(mutex_);
  in_use_++;
  auto& free = free_[cache];
  Page* page;
  if (free.empty()) {
    all_.push_back(std::make_unique<Page>());
    page = all_.back().get();
    page->bytes = std::make_unique<uint8_t[]>(page_bytes(cache));  // zeroed: what is masked must still be a number
  } else {
    page = free.back();
    free.pop_back();
  }
  page->sharers = 1;
  return page;
}

void Pool::share(Page* page) {
  std::lock_guard lock(mutex_);
  page->sharers++;
}

void Pool::give_back(int cache, Page* page) {
  std::lock_guard lock(mutex_);
  if (--page->sharers == 0) {
    free_[cache].push_back(page);
    in_use_--;
  }
}

void Pool::copy(int cache, Page& to, const Page& from) const { memcpy(to.bytes.get(), from.bytes.get(), page_bytes(cache)); }

size_t Pool::need(int length) const {
  size_t bytes = 0;
  for (size_t c = 0; c < shapes.size(); c++) {
    size_t pages = (length + PAGE - 1) / PAGE;
    if (shapes[c].mask) pages = std::min(pages, (size_t)((shapes[c].mask_size + most_rows_) / PAGE + 2));
    bytes += pages * page_bytes((int)c);
  }
  return bytes;
}

void Pool::reserve(size_t bytes) {
  std::lock_guard lock(mutex_);
  if (reserved_ + bytes > limit_)
    throw Refused("the page pool is full: a sequence of " + std::to_string(bytes >> 10) + " KiB more than the " +
                  std::to_string((limit_ - std::min(limit_, reserved_)) >> 10) + " KiB that are free of " +
                  std::to_string(limit_ >> 10) + "; ask for fewer tokens or wait for a request to end");
  reserved_ += bytes;
}

void Pool::release(size_t bytes) {
  std::lock_guard lock(mutex_);
  reserved_ -= bytes;
}

size_t Pool::pages_in_use() const {
  std::lock_guard lock(mutex_);
  return in_use_;
}

size_t Pool::reserved() const {
  std::lock_guard lock(mutex_);
  return reserved_;
}

Sequence::Sequence(std::shared_ptr<Pool> pool, int request_length_)
    : request_length(request_length_), pool_(std::move(pool)), pages_(pool_->shapes.size()) {
  size_t bytes = pool_->need(request_length);
  pool_->reserve(bytes);
  reserved_ = bytes;
}

void Sequence::reach(int tokens) {
  size_t bytes = pool_->need(tokens);
  if (bytes > reserved_) pool_->reserve(bytes - reserved_);
  else pool_->release(reserved_ - bytes);
  reserved_ = bytes;
  request_length = tokens;
}

Sequence::~Sequence() { free(); }

void Sequence::free() {
  for (size_t c = 0; c < pages_.size(); c++) {
    for (Page* page : pages_[c])
      if (page) pool_->give_back((int)c, page);
    pages_[c].clear();
  }
  std::vector<uint16_t>().swap(routes);
  pool_->release(reserved_);
  reserved_ = 0;
}

void Sequence::make_room(int tokens) {
  for (size_t c = 0; c < pages_.size(); c++) {
    auto& pages = pages_[c];
    for (int block = length / PAGE; block <= (length + tokens - 1) / PAGE; block++) {
      if (block >= (int)pages.size()) pages.resize(block + 1, nullptr);
      Page* old = pages[block];
      if (old && old->sharers == 1) continue;
      pages[block] = pool_->take((int)c);
      if (old) {
        pool_->copy((int)c, *pages[block], *old);
        pool_->give_back((int)c, old);
      }
    }
  }
}

void Sequence::drop_unseen() {
  for (size_t c = 0; c < pages_.size(); c++) {
    const CacheShape& s = pool_->shapes[c];
    if (!s.mask || length == 0) continue;
    // what the last token saw is kept, so that it can be taken back and computed again
    int keep = first_visible(s.mask, s.mask_size, length - 1) / PAGE;
    for (int block = keep - 1; block >= 0 && pages_[c][block]; block--) {
      pool_->give_back((int)c, pages_[c][block]);
      pages_[c][block] = nullptr;
    }
  }
}

static bool holds(const std::vector<Page*>& pages, const CacheShape& s, int length) {
  for (int block = first_visible(s.mask, s.mask_size, length) / PAGE; block * PAGE < length; block++)
    if (!pages[block]) return false;
  return true;
}

bool Sequence::rewind(int to) {
  if (to > length || to < 0) return false;
  for (size_t c = 0; c < pages_.size(); c++)
    if (!holds(pages_[c], pool_->shapes[c], to)) return false;
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

std::unique_ptr<Sequence> Sequence::fork(int to, int request_length_) const {
  if (to > length || to < 0) return nullptr;
  for (size_t c = 0; c < pages_.size(); c++)
    if (!holds(pages_[c], pool_->shapes[c], to)) return nullptr;
  auto copy = std::make_unique<Sequence>(pool_, request_length_);
  copy->length = to;
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

size_t Sequence::kv_bytes() const {
  size_t bytes = 0;
  for (size_t c = 0; c < pages_.size() && length; c++) {
    const CacheShape& s = pool_->shapes[c];
    bytes += (length - first_visible(s.mask, s.mask_size, length - 1)) * pool_->token_bytes((int)c);
  }
  return bytes;
}

}  // namespace trilens
