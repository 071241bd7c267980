#include "engine_parts.h"

#include <cstring>

namespace trilens {

// Products of weights with rows of activations: tiles of weights, all rows at a time.

int Engine::begin_product(const Instruction& s) {
  size_t bytes = 0;
  blocks_ = 0;
  for (int o = 0; o < outputs_of(s); o++) {
    const Matrix& m = parameters_[s.param[2 * o]].matrix;
    blocks_ += blocks_of(m) * m.count;
    bytes += m.bytes() * (s.op == Op::GLU_LINEAR ? 2 : 1);
  }
  int n = rows(s);
  row_block_ = std::min(n, MOST_BLOCK_ROWS);
  row_blocks_ = (n + row_block_ - 1) / row_block_;
  size_t block_bytes = std::max<size_t>(bytes / blocks_, 1);
  int even = blocks_ / (pool_threads_.size() * 8), fits = (int)(WEIGHT_TASK / block_bytes);
  blocks_per_task_ = row_blocks_ > 1 ? 1 : std::clamp(std::min(even, fits), 1, blocks_);
  return (blocks_ + blocks_per_task_ - 1) / blocks_per_task_ * row_blocks_;
}

void Engine::product_task(const Instruction& s, const Numbers& n, int task, int thread) {
  int row0 = task % row_blocks_ * row_block_, count = std::min(row_block_, rows(s) - row0);
  int first = task / row_blocks_ * blocks_per_task_, end = std::min(blocks_, first + blocks_per_task_);
  Activations x = activations(s);
  x.skip(row0, 0);
  float *y = scratch_[thread].data(), *up = y + MOST_BLOCK_ROWS * BLOCK, *more = up + MOST_BLOCK_ROWS * BLOCK;
  const bool adapted = slot_width_ && is_adapted(s);
  int output = 0;
  const Matrix* m = &parameters_[s.param[0]].matrix;
  // With few rows several blocks go together, so that gate and up are read in long pieces; a low rank is added by blocks.
  const int most = adapted ? 1 : MOST_BLOCK_ROWS / count;
  for (int block = first, before = 0, some; block < end; block += some) {
    while (block - before >= blocks_of(*m) * m->count) {
      before += blocks_of(*m) * m->count;
      m = &parameters_[s.param[2 * ++output]].matrix;
    }
    int which = (block - before) / blocks_of(*m), own = (block - before) % blocks_of(*m);
    some = std::min({most, end - block, blocks_of(*m) - own});
    int t0 = own * TILES, t1 = std::min(m->tiles(), t0 + some * TILES);
    int columns = std::min(some * BLOCK, m->rows - own * BLOCK);
    const int stride = some * BLOCK;
    Activations from = x;
    from.skip(0, which * m->columns);  // a head reads its own columns
    k_.product(*m, which, t0, t1, from, count, y, stride);
    if (adapted) add_low_rank_block(s, output, which, t0, t1, row0, count, y, more);
    int width = s.op == Op::LINEARS ? m->rows : s.width;
    int column = which * m->rows + own * BLOCK;
    if (s.op == Op::GLU_LINEAR) {
      const Matrix& um = parameters_[s.param[2]].matrix;
      k_.product(um, which, t0, t1, from, count, up, stride);
      if (adapted) add_low_rank_block(s, 1, which, t0, t1, row0, count, up, more);
      const float *gate_bias = row_of(s.param[1]), *up_bias = row_of(s.param[3]);
      for (int r = 0; r < count; r++) {
        float *g = y + r * stride, *u = up + r * stride;
        if (gate_bias) k_.add(g, gate_bias + column, g, columns);
        if (up_bias) k_.add(u, up_bias + column, u, columns);
        k_.glu(g, u, g, columns, {(Curve)s.i[0], n.f[0], n.f[1], n.f[2], n.f[3]});
      }
      finish_block(s, 0, s.out[0], -1, y, stride, row0, count, column, columns, width);
    } else {
      int bias = s.op == Op::HEAD_LINEAR ? -1 : s.param[2 * output + 1];
      finish_block(s, output, s.out[output], bias, y, stride, row0, count, column, columns, width);
    }
  }
}

// Blocks of a result: bias, residual, into its buffer, and to 8 bits if a quantised matrix reads it.
void Engine::finish_block(const Instruction& s, int output, int place, int bias, float* y, int stride, int row0, int count,
                          int column, int columns, int width) {
  const float* b = row_of(bias);
  bool residual = s.op == Op::LINEAR && s.in[1] >= 0;
  Quantised quantised = quantised_out(s, output, width);
  if (s.op == Op::HEAD_LINEAR && parameters_[s.param[0]].matrix.rows % BLOCK) quantised = {};
  for (int r = 0; r < count; r++) {
    float *from = y + r * stride, *to = buffer(place, row0 + r, width) + column;
    if (b) k_.add(from, b + column, from, columns);
    if (residual) k_.add(buffer(s.in[1], row0 + r, width) + column, from, to, columns);
    else memcpy(to, from, columns * sizeof(float));
    if (quantised.groups) k_.quantise(to, columns, row0 + r, quantised, column / 32);
  }
}

}  // namespace trilens
