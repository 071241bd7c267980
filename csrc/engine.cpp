#include <algorithm>
#include <cstring>

#include "engine_parts.h"
#include "kernel_sets.h"
#include "system.h"

namespace trilens {

using Clock = std::chrono::steady_clock;

static const Kernels& choose_kernels(const std::string& name) {
  std::string names;
  for (const Kernels* k : kernel_sets()) {
    if (name.empty() || name == k->name) return *k;
    names += (names.empty() ? "" : ", ") + std::string(k->name);
  }
  throw Refused("there are no kernels named '" + name + "' for this processor; there are " + names);
}

Engine::Engine(std::vector<Instruction> program, std::vector<Numbers> numbers, std::vector<int> widths,
               std::vector<bool> wanted, int logits, std::shared_ptr<Pool> pool_, const std::string& kernels, int threads,
               int most_rows, bool fine)
    : pool(std::move(pool_)), k_(choose_kernels(kernels)), program_(std::move(program)), numbers_(std::move(numbers)),
      widths_(std::move(widths)), logits_(logits), most_rows_(most_rows), fine_(fine), buffer_wanted_(std::move(wanted)),
      weights_(std::make_shared<Weights>()), parameters_(weights_->parameters), owner_(process_number()), pool_threads_(threads) {
  int places = 0;
  for (const Instruction& s : program_)
    for (int p : s.param) places = std::max(places, p + 1);
  parameters_.resize(places);
}

Engine::Engine(const Engine& of, int threads)
    : pool(of.pool), k_(of.k_), program_(of.program_), numbers_(of.numbers_), widths_(of.widths_), logits_(of.logits_),
      most_rows_(of.most_rows_), fine_(of.fine_), buffer_wanted_(of.buffer_wanted_), weights_(of.weights_),
      parameters_(weights_->parameters), owner_(process_number()), pool_threads_(threads) {
  keep_behind(of.behind_, of.behind_width_);
  ready();
}

Engine::Engine(const Engine& of, std::vector<Instruction> program, std::vector<Numbers> numbers, std::vector<int> widths,
               std::vector<bool> wanted, int logits, std::shared_ptr<Pool> pool_, int threads)
    : pool(std::move(pool_)), k_(of.k_), program_(std::move(program)), numbers_(std::move(numbers)),
      widths_(std::move(widths)), logits_(logits), most_rows_(of.most_rows_), fine_(of.fine_), buffer_wanted_(std::move(wanted)),
      weights_(std::make_shared<Weights>()), lent_(of.weights_), parameters_(weights_->parameters), owner_(process_number()),
      pool_threads_(threads) {
  parameters_ = of.parameters_;  // a matrix is a pointer into the arena of the other, or into its files
  weights_->files = of.weights_->files;
  weights_->adapters = of.weights_->adapters;
  size_t places = parameters_.size();
  for (const Instruction& s : program_)
    for (int p : s.param) places = std::max(places, (size_t)(p + 1));
  parameters_.resize(places);
  for (auto& adapter : weights_->adapters) adapter.resize(places);
}

Engine::~Engine() = default;

Matrix& Engine::add_matrix(int place, Type type, int count, int rows, int columns) {
  const Layout& l = layout(type);
  if (columns % l.file_block) throw Refused("rows of " + std::to_string(columns) + " do not fit blocks of " + std::to_string(l.file_block));
  Matrix& m = parameters_.at(place).matrix;
  m = {type, count, rows, columns, nullptr};
  m.data = weights_->arena.take(m.bytes() + 64);  // the kernels read whole vectors: a little arena behind the last tile
  return m;
}

void Engine::map_matrix(int place, Type type, int count, int rows, int columns, std::shared_ptr<MappedFile> file, size_t at) {
  Matrix m{type, count, rows, columns, nullptr};
  if (columns % layout(type).file_block || at % 64 || at > file->bytes() || file->bytes() - at < m.bytes() + 64)
    throw Refused("a matrix does not fit its place in the file");
  m.data = const_cast<uint8_t*>(file->data()) + at;
  parameters_.at(place).matrix = m;
  auto& files = weights_->files;
  if (std::find(files.begin(), files.end(), file) == files.end()) files.push_back(std::move(file));
}

bool Engine::in_file(int place) const {
  const uint8_t* data = parameters_.at(place).matrix.data;
  return std::any_of(weights_->files.begin(), weights_->files.end(),
                     [&](const auto& file) { return data >= file->data() && data < file->data() + file->bytes(); });
}

void Engine::check_files() const {
  for (const auto& file : weights_->files) file->check();
}

void Engine::add_row(int place, std::vector<float> row) { parameters_.at(place).row = std::move(row); }

int Engine::add_adapter() {
  weights_->adapters.emplace_back(parameters_.size());
  return (int)weights_->adapters.size() - 1;
}

size_t Engine::weight_bytes() const {
  size_t bytes = 0;
  for (const Parameter& p : parameters_) bytes += p.matrix.data ? p.matrix.bytes() : p.row.size() * sizeof(float);
  return bytes;
}

// ------------------------------------------------------------------------------------------------- preparing

void Engine::ready() {
  check(program_, widths_, parameters_, pool->shapes, pool->fixed_sizes);
  for (const Instruction& s : program_)
    if (s.op == Op::GIVEN) given_width_ = s.width;
    else if (s.op == Op::EMBED && s.i[0]) positions_ = std::min(positions_, (int)parameters_[s.param[0]].matrix.rows);
  quantised_.resize(widths_.size());
  quantise_out_.assign(program_.size(), 0);
  fine_out_.assign(program_.size(), 0);
  fine_in_.assign(program_.size(), 0);
  std::vector<std::pair<int, int>> read_from(program_.size(), {-1, 0});  // the writer and its output
  route_number_.assign(program_.size(), -1);
  route_column_.assign(program_.size(), 0);
  size_t most_hidden = 0, most_result = 0, most_inputs = 0, most_slots = 0, most_experts = 0, scratch = 0, zeros = 0;
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
          int output = (int)(at - writer.out);
          // Rounding a head's own query counts more than any other: long contexts' factors on the scores multiply it.
          bool stated = ((s.op == Op::LINEAR || s.op == Op::LINEARS) && s.i[0]) || (s.op == Op::GLU_LINEAR && s.i[1]);
          bool fine = fine_ || s.op == Op::HEAD_LINEAR || stated;
          read_from[i] = {(int)w, output};
          quantise_out_[w] |= (char)(1 << output);
          fine_out_[w] |= (char)(fine << output);
          if (!quantised_[s.in[0]]) quantised_[s.in[0]] = std::make_unique<QuantisedBuffer>();
          if (!buffer_wanted_[s.in[0]]) quantised_[s.in[0]]->resize(most_rows_, widths_[s.in[0]], fine);
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
      most_experts = std::max(most_experts, (size_t)s.i[4]);
      if (s.i[4] > UINT16_MAX) throw Refused(std::to_string(s.i[4]) + " experts are more than 65535");
      route_number_[i] = (int)counts.experts.size();
      route_column_[i] = route_width_;
      route_width_ += s.i[0];
      counts.experts.emplace_back(s.i[4], 0);
    }
    if (s.op == Op::ROUTE) scratch = std::max(scratch, (size_t)3 * s.input_width + 64);
    if (s.op == Op::RECUR) {
      scratch = std::max(scratch, (size_t)4 * s.i[3]);
      zeros = std::max(zeros, (size_t)SLICE * s.i[3]);
    }
    if (s.op == Op::CONVOLVE) zeros = std::max(zeros, (size_t)s.width);
    if (s.op == Op::ATTEND) scratch = std::max(scratch, (size_t)64 * (PAGE + 2 * pool->shapes[s.i[0]].value_dim) + 1024);
  }
  for (size_t i = 0; i < program_.size(); i++) {
    auto [writer, output] = read_from[i];
    if (writer >= 0) fine_in_[i] = fine_out_[writer] >> output & 1;
  }
  zeros_.assign(zeros, 0.0f);
  for (const auto& adapter : weights_->adapters)
    for (const LowRank& l : adapter)
      if (l.there()) slot_width_ = std::max(slot_width_, l.down.count * l.down.tiles() * 8);
  low_.resize((size_t)most_rows_ * MOST_SLOTS * slot_width_ + 8);
  scratch = std::max(scratch, (size_t)3 * MOST_BLOCK_ROWS * BLOCK);
  scratch_.assign(pool_threads_.size(), std::vector<float>(scratch));
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
    if (is_adapted(s)) phases_.push_back({(int)i, LOWER_ROWS});
    for (int part = 0; part < parts; part++) phases_.push_back({(int)i, part});
    bool blockwise = true;
    if (s.op == Op::HEAD_LINEAR) blockwise = parameters_[s.param[0]].matrix.rows % BLOCK == 0;
    if (s.op == Op::ATTEND || s.op == Op::RECUR) blockwise = false;  // heads need not be whole groups; see attend_task
    if (quantise_out_[i] && !blockwise) phases_.push_back({(int)i, QUANTISE_ROWS});
  }
  for (size_t b = 0; b < widths_.size(); b++)
    buffers_.emplace_back(buffer_wanted_[b] ? 0 : (size_t)most_rows_ * widths_[b] + 8);
  tokens_.reserve(most_rows_);
  wanted_rows_.reserve(most_rows_);
  tiles_.reserve(most_rows_);
  reach_wanted(1);
}

// Buffers behind the last layer have rows for the tokens whose logits are wanted. A vocabulary is wide, so they grow with use;
// the logit lens has one row with the logits of all layers.
void Engine::reach_wanted(size_t rows) {
  if (rows <= most_wanted_) return;
  most_wanted_ = rows == 1 ? 1 : std::min((rows + 7) / 8 * 8, (size_t)most_rows_);
  for (size_t b = 0; b < widths_.size(); b++) {
    if (!buffer_wanted_[b]) continue;
    buffers_[b].resize(most_wanted_ * widths_[b] + 8);
    if (quantised_[b]) quantised_[b]->resize(most_wanted_, widths_[b], true);
  }
}

// ------------------------------------------------------------------------------------------------- a step

void Engine::step(std::vector<Feed>& feeds, bool all, float* out) {
  if (process_number() != owner_) throw Refused("this process was forked from the one that loaded the model: load it again here");
  const Matrix& table = parameters_[program_[0].param[0]].matrix;
  for (size_t f = 0; f < feeds.size(); f++) {
    const Feed& feed = feeds[f];
    if (feed.count < 1) throw Refused("a feed has no tokens");
    if (given_width_ && !feed.rows) throw Refused("a feed has no rows beside its tokens");
    if (feed.sequence->adapter >= (int)weights_->adapters.size()) throw Refused("a sequence has an adapter that is not loaded");
    if (feed.sequence->length + feed.count > feed.sequence->request_length)
      throw Refused("a sequence of " + std::to_string(feed.sequence->length) + " tokens was made for " +
                    std::to_string(feed.sequence->request_length) + ", " + std::to_string(feed.count) + " more do not fit");
    for (const auto* tables : {&feed.sequence->ropes, &feed.sequence->scales})
      for (const auto& table : *tables)
        if (table->positions < feed.sequence->length + feed.count)
          throw Refused("a rotary table of " + std::to_string(table->positions) + " positions does not reach to " +
                        std::to_string(feed.sequence->length + feed.count));
    if (positions_ < feed.sequence->length + feed.count)
      throw Refused("a table of " + std::to_string(positions_) + " positions does not reach to " +
                    std::to_string(feed.sequence->length + feed.count));
    for (size_t other = 0; other < f; other++)
      if (feeds[other].sequence == feed.sequence) throw Refused("a sequence is fed twice in one step");
    for (int i = 0; i < feed.count; i++)
      if (feed.tokens[i] < 0 || feed.tokens[i] >= table.rows)
        throw Refused("token " + std::to_string(feed.tokens[i]) + " is not one of the vocabulary's " + std::to_string(table.rows));
  }
  counts.steps++;
  for (Feed& feed : feeds) {
    feed.drawn.clear(), feed.stopped = false;
    feed.sequence->behind.clear(), feed.sequence->behind_from = feed.sequence->length;
  }
  size_t f = 0;
  int done = 0;  // tokens of feed f that are behind us
  while (f < feeds.size()) {
    tokens_.clear();
    wanted_rows_.clear();
    wanted_feeds_.clear();
    sequences_.clear();
    tiles_.clear();
    std::vector<Taken> taken;
    for (; f < feeds.size() && (int)tokens_.size() < most_rows_; f++, done = 0) {
      const Feed& feed = feeds[f];
      int n = std::min(feed.count - done, most_rows_ - (int)tokens_.size());
      if (all) n = std::min(n, most_wanted_rows(program_.back().width) - (int)wanted_rows_.size());
      bool last = done + n == feed.count, wanted = last && feed.logits;
      if (n == 0 || (feed.draft && n < feed.count)) break;  // a draft is judged as a whole
      Sequence& s = *feed.sequence;
      if (!s.grow(n)) throw CacheFull("the page pool is full: " + std::to_string(pool->bytes_in_use() >> 10) + " KiB of " +
                                      std::to_string(pool->limit >> 10) + " are in use; wait for a request to end");
      s.route_width = route_width_;
      s.routes.resize((size_t)(s.length + n) * route_width_);
      for (int i = 0; i < n; i++) {
        if (all || (wanted && i >= n - 1 - feed.draft)) {
          wanted_rows_.push_back((int)tokens_.size());
          wanted_feeds_.push_back((int)f);
        }
        const float* row = feed.rows ? feed.rows + (size_t)(done + i) * given_width_ : nullptr;
        tokens_.push_back({feed.tokens[done + i], s.length + i, &s, (int)taken.size(), row});
      }
      taken.push_back({&s, n, feed.draft});
      done += n;
      if (!last) break;
    }
    reach_wanted(wanted_rows_.size());
    if (slot_width_) find_adapted();
    counts.passes++;
    begin_runs(taken);
    sub_step(feeds, out);
    if (behind_ >= 0) hand_behind(taken);
    end_runs();
  }
}

// What the last layer made of each sequence's tokens, to those that want it.
void Engine::hand_behind(const std::vector<Taken>& taken) {
  int row = 0;
  for (auto [sequence, count, draft] : taken) {
    const float* first = buffer(behind_, row, behind_width_);
    if (sequence->wants_behind) sequence->behind.insert(sequence->behind.end(), first, first + (size_t)count * behind_width_);
    row += count;
  }
}

Drawn Engine::draw(std::vector<Feed> feeds, double ahead) {
  Drawn drawn;
  drawn.tokens.resize(feeds.size());
  drawn.drafts.resize(feeds.size());
  std::vector<int> whose(feeds.size()), many(feeds.size(), 0);  // many: tokens that each feed has drawn
  for (size_t f = 0; f < feeds.size(); f++) whose[f] = (int)f;
  auto begin = Clock::now(), since = begin;
  while (true) {
    uint64_t passes = counts.passes;
    bool decoding = speculate(feeds, many);
    step(feeds, false, nullptr);
    auto now = Clock::now();
    double seconds = std::chrono::duration<double>(now - since).count();
    drawn.passes.push_back((int)(counts.passes - passes));
    drawn.seconds.push_back(seconds);
    since = now;
    if (decoding) judge(feeds, seconds);
    size_t on = 0;
    for (size_t f = 0; f < feeds.size(); f++) {
      Feed& feed = feeds[f];
      Sampler* sampler = feed.sampler;
      int right = (int)feed.drawn.size() - (sampler && sampler->chosen >= 0);
      drawn.drafts[whose[f]].push_back({feed.draft, feed.draft ? right : 0});
      if (!sampler) continue;
      auto& tokens = drawn.tokens[whose[f]];
      tokens.insert(tokens.end(), feed.drawn.begin(), feed.drawn.end());
      if (sampler->chosen < 0 || sampler->is_end(sampler->chosen) || (int)tokens.size() >= feed.most) continue;
      many[on] = (int)tokens.size();
      whose[on] = whose[f];
      Feed next{feed.sequence, &sampler->chosen, 1, true, sampler, feed.most, feed.look};
      feeds[on++] = std::move(next);
    }
    if (on == 0 || std::chrono::duration<double>(now - begin).count() >= ahead) return drawn;
    feeds.resize(on);
  }
}

// Put proposed tokens behind those of feeds that decode, if no prompt is in the step. Whether it is such a step.
bool Engine::speculate(std::vector<Feed>& feeds, const std::vector<int>& drawn) {
  for (const Feed& feed : feeds)
    if (feed.count != 1 || !feed.sampler || !feed.sequence->length) return false;
  if (paces_.size() <= feeds.size()) paces_.resize(feeds.size() + 1);
  const Pace& pace = paces_[feeds.size()];
  if (drafted_.size() < feeds.size()) drafted_.resize(feeds.size());
  const int states = pool->fixed_floats ? std::max(1, (int)(MOST_TRIED / (pool->fixed_floats * sizeof(float)))) : most_rows_;
  int room = std::min(most_rows_, MOST_LOGITS) - (int)feeds.size();
  for (size_t f = 0; f < feeds.size(); f++) {
    Feed& feed = feeds[f];
    if (!feed.sampler->draft || pace.plain <= 0) continue;
    const Sequence& s = *feed.sequence;
    // behind the proposed tokens comes one more that is drawn
    int most = std::min({std::max(feed.most - drawn[f] - 1, feed.look), s.request_length - s.length - 2,
                         positions_ - s.length - 1, room, states});
    for (const auto* tables : {&s.ropes, &s.scales})
      for (const auto& table : *tables) most = std::min(most, table->positions - s.length - 1);
    if (feed.sampler->drawn < 2) continue;  // the first step shows what one takes without drafts
    const Proposal* given = feed.proposal;
    const auto& proposed = given ? given->tokens : feed.sampler->draft->propose(most, pace.prices(feeds.size()));
    const int count = std::min(most, (int)proposed.size());
    if (count < 1) continue;
    auto& tokens = drafted_[f];
    tokens.assign(1, feed.tokens[0]);
    tokens.insert(tokens.end(), proposed.begin(), proposed.begin() + count);
    feed.tokens = tokens.data();
    feed.draft = count;
    feed.looked_up = given ? std::min(count, given->looked_up) : count;
    feed.predicted = given ? std::min(count, given->predicted) : 0;
    feed.count = feed.draft + 1;
    room -= feed.draft;
  }
  return true;
}

// Take back what was wrong, and note what the drafts cost and saved.
void Engine::judge(std::vector<Feed>& feeds, double seconds) {
  Pace& pace = paces_[feeds.size()];
  int proposed = 0;
  for (const Feed& feed : feeds) proposed += feed.draft;
  auto mean = [](double& of, double value) { of = of > 0 ? of + (value - of) / 4 : value; };
  double extra = proposed ? std::clamp((seconds - pace.plain) / proposed, 1e-9, pace.plain) : 0;
  if (proposed) mean(pace.row, extra);
  else mean(pace.plain, seconds);
  for (Feed& feed : feeds) {
    Draft* draft = feed.sampler->draft.get();
    if (draft) draft->passed(seconds, pace.prices(feeds.size()));
    if (!feed.draft) continue;
    int right = (int)feed.drawn.size() - (feed.sampler->chosen >= 0);
    Sequence& s = *feed.sequence;
    if (right < feed.draft) s.take_back(feed.draft - right);
    draft->judged(feed.looked_up, feed.predicted, feed.draft, right, extra * feed.draft, right * pace.plain / (double)feeds.size());
  }
}

void Engine::sub_step(std::vector<Feed>& feeds, float*& out) {
  counts.tokens += tokens_.size();
  mark_ = Clock::now();
  timed_ = -1;
  pool_threads_.run(*this, (int)phases_.size());
  check_files();
  counts.seconds[(int)program_[timed_].op] += std::chrono::duration<double>(Clock::now() - mark_).count();
  int vocab = program_.back().width;
  for (size_t r = 0; r < wanted_rows_.size(); r++) {
    const float* row = buffers_[logits_].data() + r * vocab;
    Feed& feed = feeds[wanted_feeds_[r]];
    Sampler* sampler = feed.sampler;
    if (feed.stopped) continue;
    if (!sampler) {
      memcpy(out, row, vocab * sizeof(float));
      out += vocab;
      continue;
    }
    try {
      sampler->chosen = sampler->choose(row, vocab);
      size_t proposed = feed.count - feed.draft + feed.drawn.size();
      feed.drawn.push_back(sampler->chosen);
      feed.stopped = (int)proposed == feed.count || feed.tokens[proposed] != sampler->chosen || sampler->is_end(sampler->chosen);
      if (feed.stopped || !feed.proposal) continue;
      const auto& allowed = feed.proposal->allowed[feed.drawn.size() - 1];
      if (!allowed.empty()) sampler->allow(allowed);
    } catch (const Refused& refused) {  // a fault of one request, not of the step
      sampler->chosen = -1;
      sampler->fault = refused.what();
      feed.stopped = true;
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
  if (part == LOWER_ROWS) return begin_low_rank(s);
  if (part != QUANTISE_ROWS) {
    if (is_product(s.op)) return begin_product(s);
    if (s.op == Op::ATTEND) return begin_attend(s, part);
    if (s.op == Op::EXPERTS && part < 3) return begin_experts(s, part);
    if (s.op == Op::RECUR) return begin_recur(s);
  }
  // Rows: as many at a time as are worth handing out.
  int cost = std::max(s.width, s.input_width);
  if (s.op == Op::EXPERTS) cost *= s.i[0];
  if (s.op == Op::CONVOLVE) cost *= s.i[1] + (s.i[2] >= 0 ? 4 : 0);
  if (s.op == Op::ROUTE || s.op == Op::WRITE_KV || s.op == Op::GLU || s.op == Op::SOFTCAP || s.op == Op::ACTIVATE) cost *= 4;
  if (s.op == Op::MIX) cost *= s.i[0];
  row_chunk_ = std::max(1, 8192 / cost);
  if ((long)n * cost <= 16384) row_chunk_ = n;
  return (n + row_chunk_ - 1) / row_chunk_;
}

void Engine::run(int phase, int task, int thread) {
  auto [i, part] = phases_[phase];
  const Instruction& s = program_[i];
  const Numbers& n = numbers_[i];
  if (part == QUANTISE_ROWS) {
    int first = task * row_chunk_, end = std::min(rows(s), first + row_chunk_);
    return rows_done(s, 0, s.width, first, end);
  }
  if (part == LOWER_ROWS) return low_rank_task(s, task);
  if (is_product(s.op)) return product_task(s, n, task, thread);
  if (s.op == Op::ATTEND) return attend_task(s, n, part, task, thread);
  if (s.op == Op::EXPERTS && part < 3) return experts_task(s, n, part, task, thread);
  if (s.op == Op::RECUR) return recur_task(s, task, thread);
  int first = task * row_chunk_, end = std::min(rows(s), first + row_chunk_);
  if (s.op == Op::WRITE_KV) return write_kv(s, first, end);
  if (s.op == Op::ROUTE) return route_rows(s, n, first, end);
  if (s.op == Op::CONVOLVE) convolve_rows(s, first, end);
  else row_task(s, n, first, end);
  rows_done(s, 0, s.width, first, end);
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
      return slot_width_ ? bytes + low_rank_bytes(s) : bytes;
    case Op::ATTEND: {
      for (size_t r = 0; r < tokens_.size(); r++)  // each sequence's cache once, up to its last token here
        if (r + 1 == tokens_.size() || tokens_[r + 1].sequence != tokens_[r].sequence)
          bytes += (tokens_[r].position + 1 - first_visible(s.i[2], s.i[3], tokens_[r].position)) * pool->token_bytes(s.i[0]);
      return bytes;
    }
    case Op::CONVOLVE:
      return parameters_[s.param[0]].row.size() * sizeof(float) + runs_.size() * (s.i[1] - 1) * s.width * sizeof(float);
    case Op::RECUR: return 2 * runs_.size() * pool->fixed_sizes[s.i[0]] * sizeof(float);  // read and written
    default: return 0;
  }
}

}  // namespace trilens
