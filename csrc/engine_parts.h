// What the engine's files share: sizes of tasks, and its buffers.
#pragma once
#include <algorithm>

#include "engine.h"

namespace trilens {

constexpr int BLOCK = 32;           // columns of a result that are finished together: one group of 8-bit activations
constexpr int TILES = BLOCK / 8;    // tiles in a block
constexpr int MOST_BLOCK_ROWS = 64;
constexpr size_t MOST_TRIED = 256 << 20;  // bytes of fixed states that a draft may take
constexpr int MOST_LOGITS = 32;     // rows of logits in a pass, where every token's are wanted: they take a lot of memory
constexpr int WEIGHT_TASK = 1 << 18;  // bytes of weights in a task, at most (unless one block has more)
constexpr int QUANTISE_ROWS = 9;    // an extra part of a phase: the result's rows to 8 bits
constexpr int LOWER_ROWS = 10;      // an extra part before a product: its input through the adapters' first matrices
constexpr int MOST_SLOTS = 3;       // matrices of one product

constexpr int SLICE = 32;           // columns of a head's matrix state that go through a run together: 16 KiB of 128 rows
constexpr int SLICE_TOKENS = 8;     // slices of a task, times tokens

// The same for a result of any width: narrow ones may have more rows.
inline int most_wanted_rows(int width) { return std::max(MOST_LOGITS, (1 << 22) / width); }

inline int slices_of(int value_dim) { return (value_dim + SLICE - 1) / SLICE; }

inline bool is_product(Op op) {
  return op == Op::LINEAR || op == Op::LINEARS || op == Op::GLU_LINEAR || op == Op::HEAD_LINEAR;
}
// How many matrices a product goes through one after the other, block by block.
inline int outputs_of(const Instruction& s) {
  int n = 1;
  if (s.op == Op::LINEARS)
    while (n < 3 && s.out[n] >= 0) n++;
  return n;
}
inline int blocks_of(const Matrix& m) { return (m.rows + BLOCK - 1) / BLOCK; }

// Throws Refused for numbers that an instruction could not work with.
void check(const std::vector<Instruction>& program, const std::vector<int>& widths, const std::vector<Parameter>& parameters,
           const std::vector<CacheShape>& caches, const std::vector<int>& fixed);

struct Engine::QuantisedBuffer {
  std::vector<Group> groups;

  void resize(size_t rows, int width, bool fine) { groups.resize(std::max(groups.size(), rows * stride(width, fine))); }
  static size_t stride(int width, bool fine) { return (size_t)((width + 31) / 32) * (fine ? 2 : 1); }
  // Rows of `width` columns, which may be fewer than the buffer was made for.
  Quantised rows(int width, bool fine) { return {groups.data(), stride(width, fine), fine}; }
  Activations activations(const float* f, int width, bool fine) const {
    return {f, (size_t)width, groups.data(), stride(width, fine), fine, nullptr};
  }
};

struct Engine::Slots {  // one for each (token, rank), grouped by expert
  struct Group { int expert, first, end; };
  std::vector<Group> groups;
  std::vector<int32_t> token, slot_of;  // slot -> token; token * chosen + rank -> slot
  std::vector<int> counts;
  std::vector<float> inputs, hidden, results;
  QuantisedBuffer inputs_q, hidden_q;
};

}  // namespace trilens
