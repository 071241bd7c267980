#include "engine.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace trilens {

using Clock = std::chrono::steady_clock;

constexpr int BLOCK = 32;           // columns of a result that are finished together: one group of 8-bit activations
constexpr int TILES = BLOCK / 8;    // tiles in a block
constexpr int MOST_BLOCK_ROWS = 64;
constexpr int WEIGHT_PIECE = 1 << 18;  // bytes of weights in a piece, at most (unless one block has more)
constexpr int QUANTISE_ROWS = 9;    // an extra part of a phase: the result's rows to 8 bits

struct Engine::QuantisedBuffer {
  std::vector<int8_t> codes;
  std::vector<float> scales, totals;
  std::vector<int32_t> sums, fine_sums;
  std::vector<int8_t> fine;
  Quantised view;

  void resize(size_t rows, int width, bool with_fine) {
    size_t groups = (width + 31) / 32;
    codes.resize(rows * groups * 32);
    scales.resize(rows * groups);
    totals.resize(rows * groups);
    sums.resize(rows * groups);
    if (with_fine) {
      fine.resize(rows * groups * 32);
      fine_sums.resize(rows * groups);
    }
    view = {codes.data(), scales.data(), sums.data(), totals.data(), with_fine ? fine.data() : nullptr,
            with_fine ? fine_sums.data() : nullptr, groups};
  }
  Activations activations(const float* f, size_t f_stride) const {
    return {f, f_stride, codes.data(), scales.data(), sums.data(), totals.data(), view.fine, view.fine_sums, view.q_stride,
            nullptr};
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

static const Kernels& choose_kernels(const std::string& name) {
  const Kernels* fast = avx2_kernels();
  if (name == "portable" || (name.empty() && !fast)) return portable_kernels;
  if (fast && (name.empty() || name == "avx2")) return *fast;
  throw Refused("there are no kernels named '" + name + "' for this processor; there are portable" + (fast ? " and avx2" : ""));
}

Engine::Engine(std::vector<Instruction> program, std::vector<Numbers> numbers, std::vector<int> widths,
               std::vector<bool> wanted, int logits, std::shared_ptr<Pool> pool_, const std::string& kernels, int threads,
               int most_rows, bool fine)
    : pool(std::move(pool_)), k_(choose_kernels(kernels)), program_(std::move(program)), numbers_(std::move(numbers)),
      widths_(std::move(widths)), logits_(logits), most_rows_(most_rows), fine_(fine), buffer_wanted_(std::move(wanted)),
      owner_(getpid()), team_(threads) {
  int places = 0;
  for (const Instruction& s : program_)
    for (int p : s.param) places = std::max(places, p + 1);
  parameters_.resize(places);
}

Engine::~Engine() {
  for (Parameter& p : parameters_) ::operator delete[](p.matrix.data, std::align_val_t(64));
}

Matrix& Engine::add_matrix(int place, Type type, int count, int rows, int columns) {
  const Layout& l = layout(type);
  if (columns % l.file_block) throw Refused("rows of " + std::to_string(columns) + " do not fit blocks of " + std::to_string(l.file_block));
  Matrix& m = parameters_.at(place).matrix;
  m = {type, count, rows, columns, nullptr};
  // The kernels read ahead, and whole vectors: a little room behind the last tile.
  m.data = (uint8_t*)::operator new[](m.bytes() + 64, std::align_val_t(64));
  return m;
}

void Engine::add_row(int place, std::vector<float> row) { parameters_.at(place).row = std::move(row); }

size_t Engine::weight_bytes() const {
  size_t bytes = 0;
  for (const Parameter& p : parameters_) bytes += p.matrix.data ? p.matrix.bytes() : p.row.size() * sizeof(float);
  return bytes;
}

// ------------------------------------------------------------------------------------------------- preparing

static bool is_product(Op op) {
  return op == Op::LINEAR || op == Op::LINEARS || op == Op::GLU_LINEAR || op == Op::HEAD_LINEAR;
}

void Engine::ready() {
  quantised_.resize(widths_.size());
  quantise_out_.assign(program_.size(), 0);
  route_number_.assign(program_.size(), -1);
  size_t most_hidden = 0, most_result = 0, most_inputs = 0, most_slots = 0, most_experts = 0, scratch = 0;
  for (size_t i = 0; i < program_.size(); i++) {
    const Instruction& s = program_[i];
    if (is_product(s.op) || s.op == Op::EXPERTS) {
      const Matrix& m = parameters_[s.param[0]].matrix;
      bool reads_quantised = !is_float(m.type);
      for (int p = 2; p < 6; p += 2)
        if (s.op != Op::HEAD_LINEAR && s.op != Op::LINEAR && !(s.op == Op::EXPERTS && p == 4) && s.param[p] >= 0)
          reads_quantised |= !is_float(parameters_[s.param[p]].matrix.type);
      if (s.op == Op::HEAD_LINEAR && reads_quantised && m.columns % 32)
        throw Refused("a head of " + std::to_string(m.columns) + " columns does not fit groups of 32");
      if (reads_quantised)
        for (size_t w = i; w-- > 0;) {
          const Instruction& writer = program_[w];
          auto at = std::find(writer.out, writer.out + 3, s.in[0]);
          if (at == writer.out + 3) continue;
          quantise_out_[w] |= (char)(1 << (at - writer.out));
          if (!quantised_[s.in[0]]) {
            quantised_[s.in[0]] = std::make_unique<QuantisedBuffer>();
            quantised_[s.in[0]]->resize(buffer_wanted_[s.in[0]] ? most_wanted_ : most_rows_, widths_[s.in[0]], fine_);
          }
          break;
        }
    }
    if (s.op == Op::EXPERTS) {
      const Matrix &gate = parameters_[s.param[0]].matrix, &down = parameters_[s.param[4]].matrix;
      size_t slots = (size_t)most_rows_ * s.i[0];
      most_slots = std::max(most_slots, slots);
      most_hidden = std::max(most_hidden, slots * gate.rows);
      most_result = std::max(most_result, slots * down.rows);
      if (s.i[1]) most_inputs = std::max(most_inputs, slots * gate.columns);
      most_experts = std::max(most_experts, (size_t)gate.count);
      route_number_[i] = (int)counts.experts.size();
      counts.experts.emplace_back(gate.count, 0);
    }
    if (s.op == Op::ROUTE) scratch = std::max(scratch, (size_t)3 * s.input_width + 64);
    if (s.op == Op::ATTEND) scratch = std::max(scratch, (size_t)64 * (PAGE + 2 * pool->shapes[s.i[0]].value_dim) + 1024);
  }
  scratch = std::max(scratch, (size_t)2 * MOST_BLOCK_ROWS * BLOCK);
  scratch_.assign(team_.size(), std::vector<float>(scratch));
  if (most_slots) {
    slots_ = std::make_unique<Slots>();
    slots_->token.resize(most_slots);
    slots_->slot_of.resize(most_slots);
    slots_->counts.resize(most_experts + 1);
    slots_->groups.reserve(most_experts);
    slots_->hidden.resize(most_hidden);
    slots_->results.resize(most_result);
    slots_->inputs.resize(most_inputs);
    slots_->hidden_q.resize(most_slots, (int)(most_hidden / most_slots), fine_);
    slots_->inputs_q.resize(most_inputs ? most_slots : 0, most_inputs ? (int)(most_inputs / most_slots) : 32, fine_);
  }
  for (size_t i = 0; i < program_.size(); i++) {
    const Instruction& s = program_[i];
    int parts = s.op == Op::ATTEND ? 2 : s.op == Op::EXPERTS ? 4 : 1;
    for (int part = 0; part < parts; part++) phases_.push_back({(int)i, part});
    bool blockwise = true;
    if (s.op == Op::HEAD_LINEAR) blockwise = parameters_[s.param[0]].matrix.rows % BLOCK == 0;
    if (s.op == Op::ATTEND) blockwise = false;  // heads need not be whole groups; see attend_piece
    if (quantise_out_[i] && !blockwise) phases_.push_back({(int)i, QUANTISE_ROWS});
  }
  for (size_t b = 0; b < widths_.size(); b++)
    buffers_.emplace_back((size_t)(buffer_wanted_[b] ? most_wanted_ : most_rows_) * widths_[b] + 8);
  tokens_.reserve(most_rows_);
  wanted_rows_.reserve(most_wanted_);
  tiles_.reserve(most_rows_);
}

// ------------------------------------------------------------------------------------------------- a step

void Engine::step(const std::vector<Feed>& feeds, bool all, float* out) {
  if (getpid() != owner_) throw Refused("this process was forked from the one that loaded the model: load it again here");
  const Matrix& table = parameters_[program_[0].param[0]].matrix;
  for (size_t f = 0; f < feeds.size(); f++) {
    const Feed& feed = feeds[f];
    if (feed.count < 1) throw Refused("a feed has no tokens");
    if (feed.sequence->length + feed.count > feed.sequence->request_length)
      throw Refused("a sequence of " + std::to_string(feed.sequence->length) + " tokens was made for " +
                    std::to_string(feed.sequence->request_length) + ", " + std::to_string(feed.count) + " more do not fit");
    for (size_t other = 0; other < f; other++)
      if (feeds[other].sequence == feed.sequence) throw Refused("a sequence is fed twice in one step");
    for (int i = 0; i < feed.count; i++)
      if (feed.tokens[i] < 0 || feed.tokens[i] >= table.rows)
        throw Refused("token " + std::to_string(feed.tokens[i]) + " is not one of the vocabulary's " + std::to_string(table.rows));
  }
  counts.steps++;
  size_t f = 0;
  int done = 0;  // tokens of feed f that are behind us
  while (f < feeds.size()) {
    tokens_.clear();
    wanted_rows_.clear();
    wanted_feeds_.clear();
    sequences_.clear();
    tiles_.clear();
    std::vector<std::pair<Sequence*, int>> taken;
    for (; f < feeds.size() && (int)tokens_.size() < most_rows_; f++, done = 0) {
      const Feed& feed = feeds[f];
      int wanted_left = most_wanted_ - (int)wanted_rows_.size();
      int n = std::min(feed.count - done, most_rows_ - (int)tokens_.size());
      if (all) n = std::min(n, wanted_left);
      bool last = done + n == feed.count, wanted = last && feed.logits;
      if (n == 0 || (wanted && wanted_left == 0)) break;
      Sequence& s = *feed.sequence;
      s.make_room(n);
      for (int i = 0; i < n; i++) {
        if (all || (wanted && i == n - 1)) {
          wanted_rows_.push_back((int)tokens_.size());
          wanted_feeds_.push_back((int)f);
        }
        tokens_.push_back({feed.tokens[done + i], s.length + i, &s});
      }
      taken.push_back({&s, n});
      done += n;
      if (!last) break;
    }
    sub_step(feeds, out);
    for (auto [sequence, n] : taken) {
      sequence->length += n;
      sequence->drop_unseen();
    }
  }
}

void Engine::sub_step(const std::vector<Feed>& feeds, float*& out) {
  counts.tokens += tokens_.size();
  mark_ = Clock::now();
  timed_ = -1;
  team_.run(*this, (int)phases_.size());
  counts.seconds[(int)program_[timed_].op] += std::chrono::duration<double>(Clock::now() - mark_).count();
  int vocab = program_.back().width;
  for (size_t r = 0; r < wanted_rows_.size(); r++) {
    const float* row = buffers_[logits_].data() + r * vocab;
    Sampler* sampler = feeds[wanted_feeds_[r]].sampler;
    if (!sampler) {
      memcpy(out, row, vocab * sizeof(float));
      out += vocab;
      continue;
    }
    try {
      sampler->chosen = sampler->choose(row, vocab);
    } catch (const Refused& refused) {  // a fault of one request, not of the step
      sampler->chosen = -1;
      sampler->fault = refused.what();
    }
  }
}

int Engine::begin(int phase) {
  auto [i, part] = phases_[phase];
  const Instruction& s = program_[i];
  auto now = Clock::now();
  if (timed_ >= 0) counts.seconds[(int)program_[timed_].op] += std::chrono::duration<double>(now - mark_).count();
  mark_ = now;
  timed_ = i;
  int n = rows(s);
  if (n == 0) return 0;
  if (part == 0) counts.bytes[(int)s.op] += bytes_read(s);
  if (part != QUANTISE_ROWS) {
    if (is_product(s.op)) return begin_product(s);
    if (s.op == Op::ATTEND) return begin_attend(s, part);
    if (s.op == Op::EXPERTS && part < 3) return begin_experts(s, part);
  }
  // Rows: as many at a time as are worth handing out.
  int cost = std::max(s.width, s.input_width);
  if (s.op == Op::EXPERTS) cost *= s.i[0];
  if (s.op == Op::ROUTE || s.op == Op::WRITE_KV || s.op == Op::GLU || s.op == Op::SOFTCAP) cost *= 4;
  row_chunk_ = std::max(1, 8192 / cost);
  if ((long)n * cost <= 16384) row_chunk_ = n;
  return (n + row_chunk_ - 1) / row_chunk_;
}

void Engine::run(int phase, int piece, int thread) {
  auto [i, part] = phases_[phase];
  const Instruction& s = program_[i];
  const Numbers& n = numbers_[i];
  if (part == QUANTISE_ROWS) {
    int first = piece * row_chunk_, end = std::min(rows(s), first + row_chunk_);
    return rows_done(s, 0, s.width, first, end);
  }
  if (is_product(s.op)) return product_piece(s, n, piece, thread);
  if (s.op == Op::ATTEND) return attend_piece(s, n, part, piece, thread);
  if (s.op == Op::EXPERTS && part < 3) return experts_piece(s, n, part, piece, thread);
  int first = piece * row_chunk_, end = std::min(rows(s), first + row_chunk_);
  if (s.op == Op::WRITE_KV) return write_kv(s, first, end);
  if (s.op == Op::ROUTE) return route_rows(s, n, first, end);
  row_piece(s, n, first, end);
  rows_done(s, 0, s.width, first, end);
}

// Rows first..end of output `which` are written: round them to 8 bits if a quantised matrix reads them.
void Engine::rows_done(const Instruction& s, int which, int width, int first, int end) {
  if (!(quantise_out_[&s - program_.data()] >> which & 1)) return;
  const QuantisedBuffer& q = *quantised_[s.out[which]];
  Quantised view = q.view;
  view.q_stride = (width + 31) / 32;
  for (int r = first; r < end; r++) k_.quantise(buffer(s.out[which], r, width), width, r, view, 0);
}

Activations Engine::activations(const Instruction& s) const {
  const float* f = buffers_[s.in[0]].data();
  if (!quantised_[s.in[0]]) return {f, (size_t)s.input_width};
  Activations a = quantised_[s.in[0]]->activations(f, s.input_width);
  a.q_stride = (s.input_width + 31) / 32;
  return a;
}

// ------------------------------------------------------------------------------------------------- rows

void Engine::row_piece(const Instruction& s, const Numbers& n, int first, int end) {
  for (int r = first; r < end; r++) {
    float* y = buffer(s.out[0], r, s.width);
    const float* x = s.in[0] < 0 ? nullptr : buffer(s.in[0], r, s.input_width);
    const float* other = s.in[1] < 0 || s.op == Op::EXPERTS || s.op == Op::JOIN ? nullptr : buffer(s.in[1], r, s.width);
    switch (s.op) {
      case Op::EMBED: unpack_row(parameters_[s.param[0]].matrix, 0, tokens_[r].id, y); break;
      case Op::LAST_ROWS: memcpy(y, buffer(s.in[0], wanted_rows_[r], s.width), s.width * sizeof(float)); break;
      case Op::NORM: k_.norm(x, y, s.width, s.i[0], s.i[1], n.f[0], row_of(s.param[0]), row_of(s.param[1])); break;
      case Op::ROPE: {
        const Table& t = *tokens_[r].sequence->ropes[s.i[1]];
        size_t at = (size_t)tokens_[r].position * t.columns;
        k_.rope(x, y, s.i[0], s.width / s.i[0], s.i[2], s.i[3], t.cos.data() + at, t.sin.data() + at);
        break;
      }
      case Op::SCALE_BY_POSITION:
        k_.scale(x, tokens_[r].sequence->scales[s.i[0]]->cos[tokens_[r].position], y, s.width);
        break;
      case Op::CLIP: k_.clip(x, n.f[0], y, s.width); break;
      case Op::SLICE: {
        int part = s.input_width / s.i[0], kept = s.i[2] - s.i[1];
        for (int g = 0; g < s.i[0]; g++) memcpy(y + g * kept, x + g * part + s.i[1], kept * sizeof(float));
        break;
      }
      case Op::JOIN: {
        int a = s.input_width / s.i[0], b = (s.width - s.input_width) / s.i[0];
        const float* z = buffer(s.in[1], r, s.width - s.input_width);
        for (int g = 0; g < s.i[0]; g++) {
          memcpy(y + g * (a + b), x + g * a, a * sizeof(float));
          memcpy(y + g * (a + b) + a, z + g * b, b * sizeof(float));
        }
        break;
      }
      case Op::ADD: k_.add(x, other, y, s.width); break;
      case Op::MUL: {
        const std::vector<float>& factors = parameters_[s.param[0]].row;
        if (factors.size() == 1) k_.scale(x, factors[0], y, s.width);
        else k_.multiply(x, factors.data(), y, s.width);
        break;
      }
      case Op::SCALE: k_.scale(x, n.f[0], y, s.width); break;
      case Op::SOFTCAP: k_.softcap(x, n.f[0], y, s.width); break;
      case Op::GLU: k_.glu(x, other, y, s.width, {(Curve)s.i[0], n.f[0], n.f[1], n.f[2]}); break;
      case Op::EXPERTS: {  // the chosen experts' results, in order of rank
        int chosen = s.i[0];
        const float* weights = buffer(s.in[2], r, chosen);
        memset(y, 0, s.width * sizeof(float));
        for (int rank = 0; rank < chosen; rank++) {
          const float* from = slots_->results.data() + (size_t)slots_->slot_of[r * chosen + rank] * s.width;
          k_.fused_add(from, s.i[1] ? 1.0f : weights[rank], y, s.width);
        }
        break;
      }
      default: break;
    }
  }
}

void Engine::write_kv(const Instruction& s, int first, int end) {
  int c = s.i[0];
  const CacheShape& shape = pool->shapes[c];
  size_t size = pool->element_bytes();
  for (int r = first; r < end; r++) {
    int position = tokens_[r].position, at = position % PAGE;
    const Page& page = *tokens_[r].sequence->pages(c)[position / PAGE];
    const float* k = buffer(s.in[0], r, s.input_width);
    const float* v = s.in[1] < 0 ? nullptr : buffer(s.in[1], r, shape.kv_heads * shape.value_dim);
    for (int h = 0; h < shape.kv_heads; h++) {
      KVBlock b = pool->block(c, page, h);
      float* scale = const_cast<float*>(b.key_scales);
      k_.store_kv(k + h * shape.key_dim, shape.key_dim, pool->kind, const_cast<uint8_t*>(b.keys) + at * size, PAGE,
                  scale ? scale + at : nullptr);
      if (!v) continue;
      scale = const_cast<float*>(b.value_scales);
      k_.store_kv(v + h * shape.value_dim, shape.value_dim, pool->kind,
                  const_cast<uint8_t*>(b.values) + (size_t)at * shape.value_dim * size, 1, scale ? scale + at : nullptr);
    }
  }
}

void Engine::route_rows(const Instruction& s, const Numbers& n, int first, int end) {
  RouteRule rule{s.input_width, s.i[0], s.i[1], s.i[2] != 0, s.i[3], s.i[4], s.i[5], n.f[0], n.f[1], n.f[2],
                 row_of(s.param[0]), row_of(s.param[1])};
  std::vector<float> scratch(3 * s.input_width);
  for (int r = first; r < end; r++)
    k_.route(buffer(s.in[0], r, s.input_width), scratch.data(), (int32_t*)buffer(s.out[0], r, s.width),
             buffer(s.out[1], r, s.width), rule);
}

// ------------------------------------------------------------------------------------------------- products

static int blocks_of(const Matrix& m) { return (m.rows + BLOCK - 1) / BLOCK; }

// How many matrices a product goes through one after the other, block by block.
static int outputs_of(const Instruction& s) {
  int n = 1;
  if (s.op == Op::LINEARS)
    while (n < 3 && s.out[n] >= 0) n++;
  return n;
}

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
  int even = blocks_ / (team_.size() * 8), fits = (int)(WEIGHT_PIECE / block_bytes);
  blocks_per_piece_ = row_blocks_ > 1 ? 1 : std::clamp(std::min(even, fits), 1, blocks_);
  return (blocks_ + blocks_per_piece_ - 1) / blocks_per_piece_ * row_blocks_;
}

void Engine::product_piece(const Instruction& s, const Numbers& n, int piece, int thread) {
  int row0 = piece % row_blocks_ * row_block_, count = std::min(row_block_, rows(s) - row0);
  int first = piece / row_blocks_ * blocks_per_piece_, end = std::min(blocks_, first + blocks_per_piece_);
  Activations x = activations(s);
  x.skip(row0, 0);
  float *y = scratch_[thread].data(), *up = y + MOST_BLOCK_ROWS * BLOCK;
  int output = 0;
  const Matrix* m = &parameters_[s.param[0]].matrix;
  for (int block = first, before = 0; block < end; block++) {
    while (block - before >= blocks_of(*m) * m->count) {
      before += blocks_of(*m) * m->count;
      m = &parameters_[s.param[2 * ++output]].matrix;
    }
    int which = (block - before) / blocks_of(*m), own = (block - before) % blocks_of(*m);
    int t0 = own * TILES, t1 = std::min(m->tiles(), t0 + TILES), columns = std::min(BLOCK, m->rows - own * BLOCK);
    Activations from = x;
    from.skip(0, which * m->columns);  // a head reads its own columns
    k_.product(*m, which, t0, t1, from, count, y, BLOCK);
    int width = s.op == Op::LINEARS ? m->rows : s.width;
    int column = which * m->rows + own * BLOCK;
    if (s.op == Op::GLU_LINEAR) {
      const Matrix& um = parameters_[s.param[2]].matrix;
      k_.product(um, which, t0, t1, from, count, up, BLOCK);
      const float *gate_bias = row_of(s.param[1]), *up_bias = row_of(s.param[3]);
      for (int r = 0; r < count; r++) {
        if (gate_bias) k_.add(y + r * BLOCK, gate_bias + column, y + r * BLOCK, columns);
        if (up_bias) k_.add(up + r * BLOCK, up_bias + column, up + r * BLOCK, columns);
        k_.glu(y + r * BLOCK, up + r * BLOCK, y + r * BLOCK, columns, {(Curve)s.i[0], n.f[0], n.f[1], n.f[2]});
      }
      finish_block(s, 0, s.out[0], -1, y, row0, count, column, columns, width);
    } else {
      int bias = s.op == Op::HEAD_LINEAR ? -1 : s.param[2 * output + 1];
      finish_block(s, output, s.out[output], bias, y, row0, count, column, columns, width);
    }
  }
}

// A block of a result: bias, residual, into its buffer, and to 8 bits if a quantised matrix reads it.
void Engine::finish_block(const Instruction& s, int output, int place, int bias, float* y, int row0, int count, int column,
                          int columns, int width) {
  const float* b = row_of(bias);
  bool residual = s.op == Op::LINEAR && s.in[1] >= 0;
  bool quantise = quantise_out_[&s - program_.data()] >> output & 1;
  if (s.op == Op::HEAD_LINEAR && parameters_[s.param[0]].matrix.rows % BLOCK) quantise = false;
  for (int r = 0; r < count; r++) {
    float *from = y + r * BLOCK, *to = buffer(place, row0 + r, width) + column;
    if (b) k_.add(from, b + column, from, columns);
    if (residual) k_.add(buffer(s.in[1], row0 + r, width) + column, from, to, columns);
    else memcpy(to, from, columns * sizeof(float));
    if (quantise) {
      Quantised view = quantised_[place]->view;
      view.q_stride = (width + 31) / 32;
      k_.quantise(to, columns, row0 + r, view, column / 32);
    }
  }
}

// ------------------------------------------------------------------------------------------------- attention

int Engine::begin_attend(const Instruction& s, int part) {
  const CacheShape& shape = pool->shapes[s.i[0]];
  if (part == 1) return split_spans_ ? (int)tiles_.size() * shape.kv_heads * head_chunks_ : 0;
  int group = s.i[1] / shape.kv_heads;
  heads_per_piece_ = std::min(group, 16);
  while (group % heads_per_piece_) heads_per_piece_--;
  head_chunks_ = group / heads_per_piece_;
  int most = std::max(1, 48 / heads_per_piece_), last = 0;
  tiles_.clear();
  for (int r = 0; r < (int)tokens_.size();) {
    int n = 1;
    while (n < most && r + n < (int)tokens_.size() && tokens_[r + n].sequence == tokens_[r].sequence) n++;
    tiles_.push_back({r, n, 0});
    last = std::max(last, tokens_[r + n - 1].position);
    r += n;
  }
  int pieces = (int)tiles_.size() * shape.kv_heads * head_chunks_;
  spans_ = last / SPAN + 1;
  split_spans_ = spans_ > 1 && pieces < 4 * team_.size();
  if (!split_spans_) return pieces;
  size_t spans = (size_t)pieces * spans_ * 48;
  if (span_partials_.size() < spans) span_partials_.resize(spans);
  if (span_values_.size() < spans * shape.value_dim) span_values_.resize(spans * shape.value_dim);
  return pieces * spans_;
}

void Engine::attend_piece(const Instruction& s, const Numbers& n, int part, int piece, int thread) {
  int c = s.i[0];
  const CacheShape& shape = pool->shapes[c];
  int group = s.i[1] / shape.kv_heads, span_from = 0, span_end = spans_;
  int job = piece;
  if (split_spans_ && part == 0) {
    job = piece / spans_;
    span_from = piece % spans_;
    span_end = span_from + 1;
  }
  const Tile& tile = tiles_[job / (shape.kv_heads * head_chunks_)];
  int head = job / head_chunks_ % shape.kv_heads, chunk = job % head_chunks_;
  int first_head = head * group + chunk * heads_per_piece_, count = tile.tokens * heads_per_piece_, dim = shape.value_dim;

  int32_t first[64], last[64];
  int lowest = INT32_MAX, highest = 0;
  for (int r = 0; r < count; r++) {
    int position = tokens_[tile.row + r / heads_per_piece_].position;
    first[r] = first_visible(s.i[2], s.i[3], position);
    last[r] = position;
    lowest = std::min(lowest, first[r]);
    highest = std::max(highest, position);
  }
  AttendRows a{buffer(s.in[0], tile.row, s.input_width) + first_head * shape.key_dim, (size_t)s.input_width, count,
               heads_per_piece_, shape.key_dim, dim, pool->kind, shape.latent, n.f[0], n.f[1], first, last};
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
      k_.attend(a, blocks, block0, end, scores, to, dim, partial);
    }
    if (part == 1 || !split_spans_)
      for (int r = 0; r < count; r++) k_.merge(totals[r], total + r * dim, partial[r], to + r * dim, dim);
  }
  if (part == 0 && split_spans_) return;
  const float* sinks = row_of(s.param[0]);
  for (int r = 0; r < count; r++) {
    int h = first_head + r % heads_per_piece_;
    float* y = buffer(s.out[0], tile.row + r / heads_per_piece_, s.width) + h * dim;
    k_.finish(totals[r], total + r * dim, sinks ? sinks + h : nullptr, y, dim);
  }
}

// ------------------------------------------------------------------------------------------------- experts

int Engine::begin_experts(const Instruction& s, int part) {
  if (part == 0) return 1;
  const Matrix& m = parameters_[s.param[part == 1 ? 0 : 4]].matrix;
  blocks_ = blocks_of(m) * (int)slots_->groups.size();
  size_t block_bytes = m.tile_size() * TILES * (part == 1 ? 2 : 1);
  int even = blocks_ / (team_.size() * 8), fits = (int)(WEIGHT_PIECE / block_bytes);
  blocks_per_piece_ = std::clamp(std::min(even, fits), 1, blocks_);
  return (blocks_ + blocks_per_piece_ - 1) / blocks_per_piece_;
}

void Engine::experts_piece(const Instruction& s, const Numbers& n, int part, int piece, int thread) {
  Slots& slots = *slots_;
  int chosen = s.i[0], count = rows(s);
  const Matrix &gate = parameters_[s.param[0]].matrix, &up = parameters_[s.param[2]].matrix, &down = parameters_[s.param[4]].matrix;
  if (part == 0) {  // group the tokens by expert
    const int32_t* ids = (const int32_t*)buffers_[s.in[1]].data();
    int route = route_number_[&s - program_.data()];
    std::fill(slots.counts.begin(), slots.counts.end(), 0);
    for (int i = 0; i < count * chosen; i++) slots.counts[ids[i] + 1]++;
    slots.groups.clear();
    for (int e = 0; e < gate.count; e++) {
      counts.experts[route][e] += slots.counts[e + 1];
      if (slots.counts[e + 1]) slots.groups.push_back({e, slots.counts[e], slots.counts[e] + slots.counts[e + 1]});
      slots.counts[e + 1] += slots.counts[e];
    }
    for (int i = 0; i < count * chosen; i++) {
      int slot = slots.counts[ids[i]]++;
      slots.token[slot] = i / chosen;
      slots.slot_of[i] = slot;
    }
    if (trace) (*trace)[route].insert((*trace)[route].end(), ids, ids + count * chosen);
    if (trace_weights) {
      const float* w = buffers_[s.in[2]].data();
      (*trace_weights)[route].insert((*trace_weights)[route].end(), w, w + count * chosen);
    }
    if (s.i[1]) {
      const float* weights = buffers_[s.in[2]].data();
      Quantised view = slots.inputs_q.view;
      view.q_stride = (s.input_width + 31) / 32;
      for (int i = 0; i < count * chosen; i++) {
        float* to = slots.inputs.data() + (size_t)slots.slot_of[i] * s.input_width;
        k_.scale(buffer(s.in[0], i / chosen, s.input_width), weights[i], to, s.input_width);
        if (!is_float(gate.type)) k_.quantise(to, s.input_width, slots.slot_of[i], view, 0);
      }
    }
    counts.bytes[(int)Op::EXPERTS] += slots.groups.size() * (gate.one_size() + up.one_size() + down.one_size());
    return;
  }
  const Matrix& m = part == 1 ? gate : down;
  int first = piece * blocks_per_piece_, end = std::min(blocks_, first + blocks_per_piece_);
  float *y = scratch_[thread].data(), *u = y + MOST_BLOCK_ROWS * BLOCK;
  for (int block = first; block < end; block++) {
    const Slots::Group& group = slots.groups[block / blocks_of(m)];
    int own = block % blocks_of(m), t0 = own * TILES, t1 = std::min(m.tiles(), t0 + TILES);
    int column = own * BLOCK, columns = std::min(BLOCK, m.rows - column);
    for (int slot = group.first; slot < group.end; slot += MOST_BLOCK_ROWS) {
      int some = std::min(MOST_BLOCK_ROWS, group.end - slot);
      if (part == 1) {
        Activations x = activations(s);
        int32_t pick[MOST_BLOCK_ROWS];
        if (s.i[1]) {
          x = slots.inputs_q.activations(slots.inputs.data(), s.input_width);
          x.q_stride = (s.input_width + 31) / 32;
        }
        for (int i = 0; i < some; i++) pick[i] = s.i[1] ? slot + i : slots.token[slot + i];
        x.pick = pick;
        k_.product(gate, group.expert, t0, t1, x, some, y, BLOCK);
        k_.product(up, group.expert, t0, t1, x, some, u, BLOCK);
        const float *gate_bias = row_of(s.param[1]), *up_bias = row_of(s.param[3]);
        Quantised view = slots.hidden_q.view;
        view.q_stride = (gate.rows + 31) / 32;
        for (int i = 0; i < some; i++) {
          float *g = y + i * BLOCK, *v = u + i * BLOCK, *to = slots.hidden.data() + (size_t)(slot + i) * gate.rows + column;
          size_t bias = (size_t)group.expert * gate.rows + column;
          if (gate_bias) k_.add(g, gate_bias + bias, g, columns);
          if (up_bias) k_.add(v, up_bias + bias, v, columns);
          k_.glu(g, v, to, columns, {(Curve)s.i[2], n.f[0], n.f[1], n.f[2]});
          if (!is_float(down.type)) k_.quantise(to, columns, slot + i, view, column / 32);
        }
      } else {
        Activations x = slots.hidden_q.activations(slots.hidden.data(), gate.rows);
        x.q_stride = (gate.rows + 31) / 32;
        x.skip(slot, 0);
        k_.product(down, group.expert, t0, t1, x, some, y, BLOCK);
        const float* bias = row_of(s.param[5]);
        for (int i = 0; i < some; i++) {
          float* to = slots.results.data() + (size_t)(slot + i) * s.width + column;
          if (bias) k_.add(y + i * BLOCK, bias + (size_t)group.expert * down.rows + column, to, columns);
          else memcpy(to, y + i * BLOCK, columns * sizeof(float));
        }
      }
    }
  }
}

uint64_t Engine::bytes_read(const Instruction& s) const {
  uint64_t bytes = 0;
  switch (s.op) {
    case Op::EMBED: {
      const Matrix& m = parameters_[s.param[0]].matrix;
      return m.tile_size() / 8 * tokens_.size();
    }
    case Op::LINEAR:
    case Op::LINEARS:
    case Op::HEAD_LINEAR:
    case Op::GLU_LINEAR:
      for (int p = 0; p < 6; p += 2)
        if (s.param[p] >= 0) bytes += parameters_[s.param[p]].matrix.bytes();
      return bytes;
    case Op::ATTEND: {
      for (size_t r = 0; r < tokens_.size(); r++)  // each sequence's cache once, up to its last token here
        if (r + 1 == tokens_.size() || tokens_[r + 1].sequence != tokens_[r].sequence)
          bytes += (tokens_[r].position + 1 - first_visible(s.i[2], s.i[3], tokens_[r].position)) * pool->token_bytes(s.i[0]);
      return bytes;
    }
    default: return 0;
  }
}

}  // namespace trilens
