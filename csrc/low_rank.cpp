#include "engine_parts.h"

namespace trilens {

// Adapters: to a product with a matrix they add up @ (scale * (down @ x)), for the rows of sequences that have one. A
// phase before the product makes the few numbers of down @ x; each block of the product then adds its part. A row's sums
// do not depend on what other rows are in the step, so the bits do not either.

LowRank& Engine::add_low_rank(int adapter, int place, Type type, int rank, float scale) {
  const Matrix& m = parameters_.at(place).matrix;
  if (!m.data) throw Refused("an adapter changes a parameter that is no matrix");
  if (rank < 1 || !is_float(type)) throw Refused("an adapter has no rank, or numbers of another type than floats");
  LowRank& l = weights_->adapters.at(adapter).at(place);
  l.scale = scale;
  l.down = {type, m.count, rank, m.columns, nullptr};
  l.up = {type, m.count, m.rows, rank, nullptr};
  for (Matrix* part : {&l.down, &l.up}) part->data = weights_->arena.take(part->bytes() + 64);
  return l;
}

size_t Engine::adapter_bytes(int adapter) const {
  size_t bytes = 0;
  for (const LowRank& l : weights_->adapters.at(adapter))
    if (l.there()) bytes += l.down.bytes() + l.up.bytes();
  return bytes;
}

static int slots_of(const Instruction& s) { return s.op == Op::GLU_LINEAR ? 2 : outputs_of(s); }

const LowRank* Engine::low_rank(int adapter, const Instruction& s, int slot) const {
  const LowRank& l = weights_->adapters[adapter][s.param[2 * slot]];
  return l.there() ? &l : nullptr;
}

bool Engine::is_adapted(const Instruction& s) const {
  if (!is_product(s.op)) return false;
  for (size_t a = 0; a < weights_->adapters.size(); a++)
    for (int slot = 0; slot < slots_of(s); slot++)
      if (low_rank((int)a, s, slot)) return true;
  return false;
}

// Which rows of the step have which adapter.
void Engine::find_adapted() {
  auto find = [](std::vector<Adapted>& found, int rows, auto token) {
    found.clear();
    for (int r = 0; r < rows; r++) {
      int adapter = token(r).sequence->adapter;
      if (adapter < 0) continue;
      if (!found.empty() && found.back().adapter == adapter && found.back().end == r) found.back().end++;
      else found.push_back({adapter, r, r + 1});
    }
  };
  find(adapted_rows_, (int)tokens_.size(), [&](int r) -> const Token& { return tokens_[r]; });
  find(adapted_wanted_, (int)wanted_rows_.size(), [&](int r) -> const Token& { return tokens_[wanted_rows_[r]]; });
}

// Where down @ x is of a row and a matrix: `rank` numbers, filled up to whole tiles.
float* Engine::lowered(const LowRank& l, int slot, int which, int row) {
  return low_.data() + ((size_t)row * MOST_SLOTS + slot) * slot_width_ + (size_t)which * l.down.tiles() * 8;
}

int Engine::begin_low_rank(const Instruction& s) {
  lowered_.clear();
  size_t work = 0;
  for (auto [adapter, first, end] : adapted(s))
    for (int slot = 0; slot < slots_of(s); slot++) {
      const LowRank* l = low_rank(adapter, s, slot);
      if (!l) continue;
      work += l->down.bytes() * (end - first);
      for (int row = first; row < end; row += MOST_BLOCK_ROWS)
        for (int which = 0; which < l->down.count; which++)
          for (int tile = 0; tile < l->down.tiles(); tile++)
            lowered_.push_back({l, slot, which, tile, row, std::min(end, row + MOST_BLOCK_ROWS)});
    }
  int tasks = std::clamp((int)(work >> 15), 1, pool_threads_.size() * 8);
  lowered_per_task_ = std::max(1, ((int)lowered_.size() + tasks - 1) / tasks);
  return ((int)lowered_.size() + lowered_per_task_ - 1) / lowered_per_task_;
}

void Engine::low_rank_task(const Instruction& s, int task) {
  int first = task * lowered_per_task_, end = std::min((int)lowered_.size(), first + lowered_per_task_);
  for (int i = first; i < end; i++) {
    auto [l, slot, which, tile, row, rows_end] = lowered_[i];
    Activations x{buffers_[s.in[0]].data(), (size_t)s.input_width};
    x.skip(row, which * l->down.columns);  // a head reads its own columns
    float* y = lowered(*l, slot, which, row) + tile * 8;
    size_t stride = (size_t)MOST_SLOTS * slot_width_;
    k_.product(l->down, which, tile, tile + 1, x, rows_end - row, y, stride);
    for (int r = row; r < rows_end; r++, y += stride) k_.scale(y, l->scale, y, 8);
  }
}

// Adds to a block of a product, `count` rows from `row0` on of tiles t0 to t1, what the rows' adapters have for it.
void Engine::add_low_rank_block(const Instruction& s, int slot, int which, int t0, int t1, int row0, int count, float* y,
                                float* scratch) {
  for (auto [adapter, first, end] : adapted(s)) {
    int from = std::max(first, row0), to = std::min(end, row0 + count);
    const LowRank* l = from < to ? low_rank(adapter, s, slot) : nullptr;
    if (!l) continue;
    Activations x{lowered(*l, slot, which, from), (size_t)MOST_SLOTS * slot_width_};
    k_.product(l->up, which, t0, t1, x, to - from, scratch, BLOCK);
    for (int r = from; r < to; r++) {
      float* row = y + (r - row0) * BLOCK;
      k_.add(row, scratch + (r - from) * BLOCK, row, (t1 - t0) * 8);
    }
  }
}

// An adapter's matrices count once a pass, like the model's.
uint64_t Engine::low_rank_bytes(const Instruction& s) const {
  uint64_t bytes = 0;
  for (size_t a = 0; a < weights_->adapters.size(); a++) {
    const auto& rows = adapted(s);
    if (std::none_of(rows.begin(), rows.end(), [&](const Adapted& r) { return r.adapter == (int)a; })) continue;
    for (int slot = 0; slot < slots_of(s); slot++)
      if (const LowRank* l = low_rank((int)a, s, slot)) bytes += l->down.bytes() + l->up.bytes();
  }
  return bytes;
}

}  // namespace trilens
