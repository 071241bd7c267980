#include "engine_parts.h"

#include <cmath>
#include <cstring>

namespace trilens {

// Attention over the cached keys and values, in spans of absolute positions.

int Engine::begin_attend(const Instruction& s, int part) {
  const CacheShape& shape = pool->shapes[s.i[0]];
  if (part == 1) return split_spans_ ? (int)tiles_.size() * shape.kv_heads * head_chunks_ : 0;
  int group = s.i[1] / shape.kv_heads;
  heads_per_task_ = std::min(group, 16);
  while (group % heads_per_task_) heads_per_task_--;
  head_chunks_ = group / heads_per_task_;
  int most = std::max(1, 48 / heads_per_task_), last = 0;
  tiles_.clear();
  for (int r = 0; r < (int)tokens_.size();) {
    int n = 1;
    while (n < most && r + n < (int)tokens_.size() && tokens_[r + n].sequence == tokens_[r].sequence) n++;
    tiles_.push_back({r, n, 0});
    last = std::max(last, tokens_[r + n - 1].position);
    r += n;
  }
  int tasks = (int)tiles_.size() * shape.kv_heads * head_chunks_;
  spans_ = last / SPAN + 1;
  split_spans_ = spans_ > 1 && tasks < 4 * pool_threads_.size();
  if (!split_spans_) return tasks;
  size_t spans = (size_t)tasks * spans_ * 48;
  if (span_partials_.size() < spans) span_partials_.resize(spans);
  if (span_values_.size() < spans * shape.value_dim) span_values_.resize(spans * shape.value_dim);
  return tasks * spans_;
}

void Engine::attend_task(const Instruction& s, const Numbers& n, int part, int task, int thread) {
  int c = s.i[0];
  const CacheShape& shape = pool->shapes[c];
  int group = s.i[1] / shape.kv_heads, span_from = 0, span_end = spans_;
  int job = task;
  if (split_spans_ && part == 0) {
    job = task / spans_;
    span_from = task % spans_;
    span_end = span_from + 1;
  }
  const Tile& tile = tiles_[job / (shape.kv_heads * head_chunks_)];
  int head = job / head_chunks_ % shape.kv_heads, chunk = job % head_chunks_;
  int first_head = head * group + chunk * heads_per_task_, count = tile.tokens * heads_per_task_, dim = shape.value_dim;

  int32_t first[64], last[64];
  int lowest = INT32_MAX, highest = 0;
  for (int r = 0; r < count; r++) {
    int position = tokens_[tile.row + r / heads_per_task_].position;
    first[r] = first_visible(s.i[2], s.i[3], position);
    last[r] = position;
    lowest = std::min(lowest, first[r]);
    highest = std::max(highest, position);
  }
  AttendRows a{buffer(s.in[0], tile.row, s.input_width) + first_head * shape.key_dim, (size_t)s.input_width, count,
               heads_per_task_, shape.key_dim, dim, pool->kind, shape.latent, n.f[0], n.f[1], first, last, nullptr};
  float *scores = scratch_[thread].data(), *values = scores + 64 * PAGE, *total = values + 64 * dim;
  Partial partials[64], totals[64];
  const auto& pages = tokens_[tile.row].sequence->pages(c);
  for (int r = 0; r < count; r++) totals[r] = {-INFINITY, 0};

  for (int span = span_from; span < span_end; span++) {
    float* to = values;
    Partial* partial = partials;
    if (split_spans_) {
      size_t at = ((size_t)job * spans_ + span) * 48;
      to = span_values_.data() + at * dim;
      partial = span_partials_.data() + at;
    }
    if (part == 0) {
      int block0 = std::max(span * (SPAN / PAGE), lowest / PAGE), end = std::min((span + 1) * (SPAN / PAGE), highest / PAGE + 1);
      KVBlock blocks[SPAN / PAGE];
      for (int b = block0; b < end; b++) blocks[b - block0] = pool->block(c, *pages[b], head);
      if (block0 >= end && !split_spans_) continue;
      a.next = block0 < end && end <= highest / PAGE ? pool->block(c, *pages[end], head).keys : nullptr;
      k_.attend(a, blocks, block0, end, scores, to, dim, partial);
    }
    if (part == 1 || !split_spans_)
      for (int r = 0; r < count; r++) k_.merge(totals[r], total + r * dim, partial[r], to + r * dim, dim);
  }
  if (part == 0 && split_spans_) return;
  const float* sinks = row_of(s.param[0]);
  for (int r = 0; r < count; r++) {
    int h = first_head + r % heads_per_task_;
    float* y = buffer(s.out[0], tile.row + r / heads_per_task_, s.width) + h * dim;
    k_.finish(totals[r], total + r * dim, sinks ? sinks + h : nullptr, y, dim);
  }
}

}  // namespace trilens
