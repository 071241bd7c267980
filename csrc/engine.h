// Replays a recorded program: one call, one step for a ragged batch of sequences.
#pragma once
#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "cache.h"
#include "kernels.h"
#include "arena.h"
#include "sampling.h"
#include "system.h"
#include "thread_pool.h"

namespace trilens {

enum class Op : int32_t {
#include "ops.inl"  // CMake makes it from program.py
  COUNT
};

struct Instruction {
  Op op;
  int32_t wanted, part, layer, width, input_width;
  int32_t out[3], in[5], param[6], i[8];
};
struct Numbers { float f[4]; };

struct Parameter {  // a matrix or a row
  Matrix matrix;
  std::vector<float> row;
};

// What an adapter adds to a product with a matrix: up @ (scale * (down @ x)); of a stack, a pair for each of its matrices.
struct LowRank {
  Matrix down, up;  // [rank, columns], [rows, rank]
  float scale = 1;
  bool there() const { return up.data != nullptr; }
};

struct Weights {
  Arena arena;  // of the matrices that are packed here
  std::vector<std::shared_ptr<MappedFile>> files;  // of those that lie in one
  std::vector<Parameter> parameters;
  std::vector<std::vector<LowRank>> adapters;  // of each: what it adds to each parameter
};

// Tokens that the caller proposes for a feed, and the words (see `Sampler::allow`) of what is allowed behind each of them.
struct Proposal {
  std::vector<int32_t> tokens;
  int looked_up = 0;  // so many at the beginning are from the sampler's own draft
  std::vector<std::vector<uint32_t>> allowed;  // no words: as before
  int predicted = 0;  // so many at the beginning, in place of the former, are from the model's block that predicts
};

struct Feed {
  Sequence* sequence;
  const int32_t* tokens;
  int count;
  bool logits;
  Sampler* sampler = nullptr;  // draws from these logits, which then are not handed out
  int most = 1;                // tokens it may draw, one after the other, before somebody has to look at them
  int look = 0;                // proposed tokens that may go beyond these: somebody looks at them, and may take them back
  const Proposal* proposal = nullptr;  // null: the sampler's draft proposes
  int draft = 0;               // of the tokens, so many at the end are proposed
  int looked_up = 0;           // of these, so many from the sampler's draft
  int predicted = 0;           // or from the model's block
  const float* rows = nullptr; // that come with the tokens, for programs that read them
  std::vector<int32_t> drawn{};  // by this step: behind the last token, and behind each proposed one as long as they were right
  bool stopped = false;        // behind a proposal that was wrong, or an end
};

struct Drawn {
  std::vector<std::vector<int32_t>> tokens;  // of each feed; none where its sampler could not, or there is none
  std::vector<double> seconds;               // of each step
  std::vector<int> passes;                   // of each step: how often the weights were read
  std::vector<std::vector<std::pair<int, int>>> drafts;  // of each feed and step: tokens proposed, and of these right
};

// Seconds of steps that draw a token for each of so many sequences and nothing else.
struct Pace {
  double plain = 0;  // without drafts; 0: not known yet
  double row = 0;    // what a proposed token adds; 0: not known yet
  Prices prices(size_t sequences) const { return {plain, plain / (double)sequences, row > 0 ? row : plain / 8}; }
};

struct Counts {
  std::array<double, (size_t)Op::COUNT> seconds{};
  std::array<uint64_t, (size_t)Op::COUNT> bytes{};
  std::vector<std::vector<uint64_t>> experts;  // of each ROUTE: how often each expert fired
  uint64_t steps = 0, passes = 0, tokens = 0;  // a pass reads the weights once, for up to `most_rows` tokens
};

class Engine : private Work {
 public:
  Engine(std::vector<Instruction> program, std::vector<Numbers> numbers, std::vector<int> widths, std::vector<bool> wanted,
         int logits, std::shared_ptr<Pool> pool, const std::string& kernels, int threads, int most_rows,
         bool fine);
  Engine(const Engine& of, int threads);  // the same weights with threads and scratch memory of its own: steps beside `of`
  // The same weights under another program, which may use parameters behind those of `of`: add them, then `ready`.
  Engine(const Engine& of, std::vector<Instruction> program, std::vector<Numbers> numbers, std::vector<int> widths,
         std::vector<bool> wanted, int logits, std::shared_ptr<Pool> pool, int threads);
  ~Engine();

  Matrix& add_matrix(int place, Type type, int count, int rows, int columns);
  void map_matrix(int place, Type type, int count, int rows, int columns, std::shared_ptr<MappedFile> file, size_t at);
  bool in_file(int place) const;  // such a matrix cannot be packed
  void add_row(int place, std::vector<float> row);
  int add_adapter();  // its number; adapters and what they add come before `ready`
  LowRank& add_low_rank(int adapter, int place, Type type, int rank, float scale);
  const Matrix& matrix(int place) const { return parameters_[place].matrix; }
  void ready();  // every parameter is there

  // Logits behind each feed's last token, or behind every token: rows x vocab at `out`. Those of a feed with a sampler
  // stay here: the sampler's `chosen` is what it made of them.
  void step(std::vector<Feed>& feeds, bool all, float* out);

  // A step, and for `ahead` seconds further ones with what it drew, as far as each feed may go.
  Drawn draw(std::vector<Feed> feeds, double ahead);

  // Sequences that ask for it get the rows that a step leaves in this buffer; -1: none.
  void keep_behind(int buffer, int width) { behind_ = buffer, behind_width_ = width; }

  const std::shared_ptr<Pool> pool;
  Counts counts;
  bool keep_routes = true;  // off only to measure what it costs
  std::vector<std::vector<int32_t>>* trace = nullptr;  // of each ROUTE: the ids, token after token
  std::vector<std::vector<float>>* trace_weights = nullptr;
  const Kernels& kernels() const { return k_; }
  int given_width() const { return given_width_; }  // of the rows that the program reads beside tokens; 0: none
  int threads() const { return pool_threads_.size(); }
  size_t weight_bytes() const;  // without adapters
  size_t adapter_bytes(int adapter) const;

 private:
  struct Phase { int instruction, part; };
  struct Token { int32_t id, position; const Sequence* sequence; int run; const float* row; };
  // The rows of one sequence. Its fixed states are written behind some of them, `ends` counted from the first: where a
  // snapshot is to be kept, behind the last, and behind each token before a proposed one, which may be taken back.
  struct Run {
    Sequence* sequence;
    int first, count, draft;
    std::vector<int> ends;
    std::vector<std::shared_ptr<Snapshot>> states;
  };
  struct Slices { int run, first, end; };  // of a run's matrix state
  struct Tile { int row, tokens, sequence; };
  struct Slots;  // experts: tokens grouped by expert
  struct Adapted { int adapter, first, end; };  // rows of a step
  // Rows of a step through a tile of an adapter's down-matrix. `slot`: of the matrices of the instruction.
  struct Lowered { const LowRank* of; int slot, which, tile, first, end; };

  struct Taken { Sequence* sequence; int count, draft; };

  int begin(int phase) override;
  void run(int phase, int task, int thread) override;

  void check_files() const;  // FileChanged: what was just computed is nothing
  void reach_wanted(size_t rows);
  void sub_step(std::vector<Feed>& feeds, float*& out);
  bool speculate(std::vector<Feed>& feeds, const std::vector<int>& drawn);
  void judge(std::vector<Feed>& feeds, double seconds);
  void hand_behind(const std::vector<Taken>& taken);
  int rows(const Instruction& s) const { return s.wanted ? (int)wanted_rows_.size() : (int)tokens_.size(); }
  float* buffer(int b, size_t row, int width) { return buffers_[b].data() + row * width; }
  const float* row_of(int place) const { return place < 0 ? nullptr : parameters_[place].row.data(); }
  Activations activations(const Instruction& s) const;
  Quantised quantised_out(const Instruction& s, int output, int width);  // no groups where nothing reads them
  void rows_done(const Instruction& s, int b, int width, int first, int end);

  void row_task(const Instruction& s, const Numbers& n, int first, int end);
  int begin_product(const Instruction& s);
  void product_task(const Instruction& s, const Numbers& n, int task, int thread);
  bool is_adapted(const Instruction& s) const;
  const LowRank* low_rank(int adapter, const Instruction& s, int slot) const;
  const std::vector<Adapted>& adapted(const Instruction& s) const { return s.wanted ? adapted_wanted_ : adapted_rows_; }
  void find_adapted();
  int begin_low_rank(const Instruction& s);
  void low_rank_task(const Instruction& s, int task);
  void add_low_rank_block(const Instruction& s, int slot, int which, int t0, int t1, int row0, int count, float* y,
                          float* scratch);
  float* lowered(const LowRank& l, int slot, int which, int row);
  uint64_t low_rank_bytes(const Instruction& s) const;
  void finish_block(const Instruction& s, int output, int place, int bias, float* y, int stride, int row0, int rows,
                    int column, int columns, int width);
  int begin_attend(const Instruction& s, int part);
  void attend_task(const Instruction& s, const Numbers& n, int part, int task, int thread);
  void write_kv(const Instruction& s, int first, int end);
  void begin_runs(const std::vector<Taken>& taken);
  void convolve_rows(const Instruction& s, int first, int end);
  void end_runs();
  int begin_recur(const Instruction& s);
  void recur_task(const Instruction& s, int task, int thread);
  int begin_experts(const Instruction& s, int part);
  void experts_task(const Instruction& s, const Numbers& n, int part, int task, int thread);
  void route_rows(const Instruction& s, const Numbers& n, int first, int end);
  uint64_t bytes_read(const Instruction& s) const;

  const Kernels& k_;
  std::vector<Instruction> program_;
  std::vector<Numbers> numbers_;
  std::vector<int> widths_;
  const int logits_, most_rows_;
  int positions_ = INT32_MAX;  // rows of the shortest table that is read by position
  int behind_ = -1, behind_width_ = 0, given_width_ = 0;
  size_t most_wanted_ = 0;  // rows that the buffers behind the last layer have now
  const bool fine_;  // 16-bit activations
  std::vector<bool> buffer_wanted_;
  const std::shared_ptr<Weights> weights_, lent_;  // lent_: of the engine whose matrices `weights_` refers to
  std::vector<Parameter>& parameters_;  // those of `weights_`
  std::vector<Phase> phases_;
  std::vector<char> quantise_out_;  // bits of the instruction's results: read by a quantised matrix
  std::vector<char> fine_out_;      // and with 16 bits
  std::vector<char> fine_in_;       // the instruction reads 16 bits
  std::vector<int> route_number_, route_column_;  // of each EXPERTS: which it is, and its first column of `routes`
  int route_width_ = 0;
  std::vector<std::vector<float>> buffers_;
  struct QuantisedBuffer;
  std::vector<std::unique_ptr<QuantisedBuffer>> quantised_;
  std::vector<std::vector<float>> scratch_;
  std::unique_ptr<Slots> slots_;
  int slot_width_ = 0;        // of what adapters make of a row for one matrix; 0: no adapter is loaded
  std::vector<float> low_;    // [row][matrix of the instruction][slot_width_]

  // the step
  std::vector<Token> tokens_;
  std::vector<Run> runs_;
  std::vector<float> zeros_;  // what fixed states hold before the first token
  std::vector<int> wanted_rows_, wanted_feeds_;
  std::vector<const Sequence*> sequences_;
  std::vector<Adapted> adapted_rows_, adapted_wanted_;  // of all rows, and of those whose logits are wanted
  std::vector<Pace> paces_;  // by the number of sequences
  std::vector<std::vector<int32_t>> drafted_;  // the tokens of feeds with drafts

  // the phase
  std::vector<Lowered> lowered_;
  int lowered_per_task_ = 1;
  int row_chunk_ = 1, blocks_ = 0, blocks_per_task_ = 1, row_blocks_ = 1, row_block_ = 1;
  std::vector<Tile> tiles_;
  std::vector<Slices> slices_;
  int heads_per_task_ = 1, head_chunks_ = 1, spans_ = 1;
  bool split_spans_ = false;
  std::vector<float> span_values_;
  std::vector<Partial> span_partials_;
  std::chrono::steady_clock::time_point mark_;
  int timed_ = -1;
  long owner_;  // the process that started the threads

  ThreadPool pool_threads_;  // last: its threads end first
};

}  // namespace trilens
