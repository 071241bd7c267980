#include "engine_parts.h"

namespace trilens {

// Fixed states of the sequences in a step, and the gated linear recurrence with a matrix of them.

// The step's runs, and room for the states behind them: what a step reads stays as it is until the step has succeeded.
void Engine::begin_runs(const std::vector<Taken>& taken) {
  runs_.clear();
  int first = 0;
  size_t states = 0;
  for (auto [sequence, count, draft] : taken) {
    sequence->fixed.settle();
    Run run{sequence, first, count, draft, {}, {}};
    if (pool->fixed_floats) {
      for (int place : sequence->fixed.places(sequence->length, count)) run.ends.push_back(place - sequence->length);
      for (int end = count - draft; end <= count; end++) run.ends.push_back(end);
      std::sort(run.ends.begin(), run.ends.end());
      run.ends.erase(std::unique(run.ends.begin(), run.ends.end()), run.ends.end());
      for (size_t e = 0; e < run.ends.size(); e++) run.states.push_back(std::make_shared<Snapshot>(pool));
    }
    states += run.states.size();
    runs_.push_back(std::move(run));
    first += count;
  }
  if (pool->fixed_floats) pool->spare_fixed(states);
}

// The step has succeeded: what was written becomes what is there.
void Engine::end_runs() {
  for (Run& run : runs_) {
    Sequence& s = *run.sequence;
    for (int place : s.fixed.places(s.length, run.count)) {
      auto at = std::find(run.ends.begin(), run.ends.end(), place - s.length);
      s.fixed.keep(place, run.states[at - run.ends.begin()]);
    }
    for (size_t e = 0; e < run.ends.size() && run.draft; e++)
      if (run.ends[e] >= run.count - run.draft) s.fixed.try_out(s.length + run.ends[e], run.states[e]);
    s.length += run.count;
    if (!run.states.empty()) s.fixed.replace(std::move(run.states.back()));
  }
  runs_.clear();  // what the steps before have left goes back
}

// A slice of columns of one head's state is read and written by nobody else, so it stays in the first-level cache through
// all tokens of its run. Single tokens take several slices at once.
int Engine::begin_recur(const Instruction& s) {
  slices_.clear();
  int slices = s.i[1] * slices_of(s.i[4]);
  int busy = (int)runs_.size() * slices / (pool_threads_.size() * 4);
  for (int run = 0; run < (int)runs_.size(); run++) {
    int together = std::clamp(std::min(SLICE_TOKENS / runs_[run].count, busy), 1, slices);
    for (int first = 0; first < slices; first += together) slices_.push_back({run, first, std::min(slices, first + together)});
  }
  return (int)slices_.size();
}

void Engine::recur_task(const Instruction& s, int task, int thread) {
  const int heads = s.i[1], key_heads = s.i[2], key_dim = s.i[3], value_dim = s.i[4], each = slices_of(value_dim);
  const bool vector = s.i[6] != 0, tiled = s.i[7] != 0;
  const Slices& some = slices_[task];
  const Run& run = runs_[some.run];
  const int decays = vector ? heads * key_dim : heads;
  const float* before = run.sequence->fixed.now();
  for (int slice = some.first; slice < some.end; slice++) {
    int head = slice / each, column = slice % each * SLICE, columns = std::min(SLICE, value_dim - column);
    int key_head = tiled ? head % key_heads : head / (heads / key_heads);
    size_t at = pool->fixed_offsets[s.i[0]] + (size_t)head * key_dim * value_dim + (size_t)column * key_dim;
    const float* from = before ? before + at : zeros_.data();
    int done = 0;
    for (size_t e = 0; e < run.ends.size(); e++) {
      int row = run.first + done;
      float* to = run.states[e]->floats() + at;
      k_.recur({from, to, key_dim, columns, run.ends[e] - done, s.i[5] != 0, vector,
                buffer(s.in[0], row, s.input_width) + (size_t)key_head * key_dim,
                buffer(s.in[1], row, s.input_width) + (size_t)key_head * key_dim,
                buffer(s.in[2], row, s.width) + (size_t)head * value_dim + column,
                buffer(s.in[3], row, decays) + (size_t)head * (vector ? key_dim : 1),
                s.in[4] < 0 ? nullptr : buffer(s.in[4], row, heads) + head,
                (size_t)s.input_width, (size_t)s.input_width, (size_t)s.width, (size_t)decays, (size_t)heads,
                (size_t)s.width, buffer(s.out[0], row, s.width) + (size_t)head * value_dim + column,
                scratch_[thread].data()});
      done = run.ends[e];
      from = to;
    }
  }
}

}  // namespace trilens
