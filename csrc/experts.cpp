#include "engine_parts.h"

#include <cstring>

namespace trilens {

// Routed feed-forwards: tokens grouped by expert, each expert's weights read once.

int Engine::begin_experts(const Instruction& s, int part) {
  if (part == 0) return 1;
  const Matrix& m = parameters_[s.param[part == 1 ? 0 : 4]].matrix;
  blocks_ = blocks_of(m) * (int)slots_->groups.size();
  if (!blocks_) return 0;  // no chosen expert has weights
  size_t block_bytes = m.tile_size() * TILES * (part == 1 && s.i[3] ? 2 : 1);
  int even = blocks_ / (pool_threads_.size() * 8), fits = (int)(WEIGHT_TASK / block_bytes);
  blocks_per_task_ = std::clamp(std::min(even, fits), 1, blocks_);
  return (blocks_ + blocks_per_task_ - 1) / blocks_per_task_;
}

void Engine::experts_task(const Instruction& s, const Numbers& n, int part, int task, int thread) {
  Slots& slots = *slots_;
  int chosen = s.i[0], count = rows(s);
  bool gated = s.i[3] != 0;  // else the gate's place has the same matrix as `up`
  const Matrix &gate = parameters_[s.param[0]].matrix, &up = parameters_[s.param[2]].matrix, &down = parameters_[s.param[4]].matrix;
  if (part == 0) {  // group the tokens by expert
    const int32_t* ids = (const int32_t*)buffers_[s.in[1]].data();
    int route = route_number_[&s - program_.data()];
    std::fill(slots.counts.begin(), slots.counts.end(), 0);
    for (int i = 0; i < count * chosen; i++) slots.counts[ids[i] + 1]++;
    slots.groups.clear();
    for (int e = 0; e < s.i[4]; e++) {
      if (keep_routes) counts.experts[route][e] += slots.counts[e + 1];
      if (slots.counts[e + 1] && e < gate.count) slots.groups.push_back({e, slots.counts[e], slots.counts[e] + slots.counts[e + 1]});
      slots.counts[e + 1] += slots.counts[e];
    }
    for (int i = 0; i < count * chosen; i++) {
      int slot = slots.counts[ids[i]]++;
      slots.token[slot] = i / chosen;
      slots.slot_of[i] = slot;
    }
    for (int r = 0; r < count && keep_routes; r++) {
      uint16_t* to = tokens_[r].sequence->routes.data() + (size_t)tokens_[r].position * route_width_;
      std::copy_n(ids + (size_t)r * chosen, chosen, to + route_column_[&s - program_.data()]);
    }
    if (trace) (*trace)[route].insert((*trace)[route].end(), ids, ids + count * chosen);
    if (trace_weights) {
      const float* w = buffers_[s.in[2]].data();
      (*trace_weights)[route].insert((*trace_weights)[route].end(), w, w + count * chosen);
    }
    if (s.i[1]) {
      const float* weights = buffers_[s.in[2]].data();
      Quantised quantised = slots.inputs_q.rows(s.input_width, fine_);
      for (int i = 0; i < count * chosen; i++) {
        float* to = slots.inputs.data() + (size_t)slots.slot_of[i] * s.input_width;
        k_.scale(buffer(s.in[0], i / chosen, s.input_width), weights[i], to, s.input_width);
        if (!is_float(gate.type)) k_.quantise(to, s.input_width, slots.slot_of[i], quantised, 0);
      }
    }
    counts.bytes[(int)Op::EXPERTS] +=
        slots.groups.size() * ((gated ? gate.one_size() : 0) + up.one_size() + down.one_size());
    return;
  }
  const Matrix& m = part == 1 ? gate : down;
  int first = task * blocks_per_task_, end = std::min(blocks_, first + blocks_per_task_);
  float *y = scratch_[thread].data(), *u = y + MOST_BLOCK_ROWS * BLOCK;
  for (int block = first, wide; block < end; block += wide) {
    const Slots::Group& group = slots.groups[block / blocks_of(m)];
    int own = block % blocks_of(m), column = own * BLOCK;
    // few rows: several blocks at once, as in product_task
    wide = std::min({MOST_BLOCK_ROWS / std::min(MOST_BLOCK_ROWS, group.end - group.first), end - block, blocks_of(m) - own});
    int t0 = own * TILES, t1 = std::min(m.tiles(), t0 + wide * TILES), columns = std::min(wide * BLOCK, m.rows - column);
    const int stride = wide * BLOCK;
    for (int slot = group.first; slot < group.end; slot += MOST_BLOCK_ROWS) {
      int some = std::min(MOST_BLOCK_ROWS, group.end - slot);
      if (part == 1) {
        Activations x = activations(s);
        int32_t pick[MOST_BLOCK_ROWS];
        if (s.i[1]) x = slots.inputs_q.activations(slots.inputs.data(), s.input_width, fine_);
        for (int i = 0; i < some; i++) pick[i] = s.i[1] ? slot + i : slots.token[slot + i];
        x.pick = pick;
        if (gated) k_.product(gate, group.expert, t0, t1, x, some, y, stride);
        k_.product(up, group.expert, t0, t1, x, some, u, stride);
        const float *gate_bias = row_of(s.param[1]), *up_bias = row_of(s.param[3]);
        Quantised quantised = slots.hidden_q.rows(gate.rows, fine_);
        for (int i = 0; i < some; i++) {
          float *g = y + i * stride, *v = u + i * stride, *to = slots.hidden.data() + (size_t)(slot + i) * gate.rows + column;
          size_t bias = (size_t)group.expert * gate.rows + column;
          if (gated && gate_bias) k_.add(g, gate_bias + bias, g, columns);
          if (up_bias) k_.add(v, up_bias + bias, v, columns);
          if (gated) k_.glu(g, v, to, columns, {(Curve)s.i[2], n.f[0], n.f[1], n.f[2], n.f[3]});
          else k_.activate(v, to, columns, (Curve)s.i[2]);
          if (!is_float(down.type)) k_.quantise(to, columns, slot + i, quantised, column / 32);
        }
      } else {
        Activations x = slots.hidden_q.activations(slots.hidden.data(), gate.rows, fine_);
        x.skip(slot, 0);
        k_.product(down, group.expert, t0, t1, x, some, y, stride);
        const float* bias = row_of(s.param[5]);
        for (int i = 0; i < some; i++) {
          float* to = slots.results.data() + (size_t)(slot + i) * s.width + column;
          if (bias) k_.add(y + i * stride, bias + (size_t)group.expert * down.rows + column, to, columns);
          else memcpy(to, y + i * stride, columns * sizeof(float));
        }
      }
    }
  }
}

}  // namespace trilens
