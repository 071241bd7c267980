// The C++ of the native executor on its own, to be run under sanitizers: random programs of a tiny decoder's shape,
// ragged batches, forks, rewinds and cancellations, with threads, and steps at once; results must not depend on any of it.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cmath>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "../../csrc/engine.h"
#include "../../csrc/kernel_sets.h"

using namespace trilens;

static std::mt19937 chance(7);
static int below(int n) { return (int)(chance() % (unsigned)n); }

constexpr int WIDTH = 64, HEADS = 4, KV_HEADS = 2, DIM = 16, VOCAB = 40, EXPERTS = 6, CHOSEN = 2, HIDDEN = 32;
constexpr int CHOICES = EXPERTS + 2;  // two have no weights
// A recurrence of two slices of columns a head, behind a convolution of three taps.
constexpr int STATES = 4, KEYS = 8, VALUES = 40;
static const std::vector<int> FIXED{2 * WIDTH, STATES * KEYS * VALUES};
constexpr int EVERY = 16;  // tokens between snapshots

struct Builder {
  std::vector<Instruction> program;
  std::vector<Numbers> numbers;
  std::vector<int> widths;
  std::vector<bool> wanted;

  int buffer(int width, bool only_wanted = false) {
    widths.push_back(width);
    wanted.push_back(only_wanted);
    return (int)widths.size() - 1;
  }
  void add(Op op, int width, int input_width, std::vector<int> out, std::vector<int> in, std::vector<int> param,
           std::vector<int> i, std::vector<float> f, bool on_wanted = false) {
    Instruction s{};
    s.op = op;
    s.wanted = on_wanted;
    s.layer = -1;
    s.width = width;
    s.input_width = input_width;
    for (int k = 0; k < 3; k++) s.out[k] = k < (int)out.size() ? out[k] : -1;
    for (int k = 0; k < 5; k++) s.in[k] = k < (int)in.size() ? in[k] : -1;
    for (int k = 0; k < 6; k++) s.param[k] = k < (int)param.size() ? param[k] : -1;
    for (int k = 0; k < 8; k++) s.i[k] = k < (int)i.size() ? i[k] : -1;
    Numbers n{};
    for (size_t k = 0; k < f.size(); k++) n.f[k] = f[k];
    program.push_back(s);
    numbers.push_back(n);
  }
};

static void fill(Engine& e, int place, Type type, int count, int rows, int columns) {
  Matrix& m = e.add_matrix(place, type, count, rows, columns);
  size_t bytes = (size_t)columns / layout(type).file_block * layout(type).file_bytes;
  std::vector<uint8_t> raw(bytes * rows);
  std::mt19937 own(place);
  for (int c = 0; c < count; c++) {
    for (uint8_t& b : raw) b = (uint8_t)own();
    for (size_t at = 0; at < raw.size(); at += layout(type).file_bytes) {
      if (type == Type::F32) {
        float value = (float)((int)(own() % 2001) - 1000) * 1e-4f;
        memcpy(&raw[at], &value, 4);
      } else {
        uint16_t scale = (uint16_t)(0x1c00 + own() % 0x400);
        memcpy(&raw[at], &scale, 2);
        if (layout(type).scales == Scales::HALF_MIN) memcpy(&raw[at + 2], &scale, 2);  // a minimum that is a number
      }
    }
    pack_rows(m, c, 0, raw.data(), bytes, rows);
  }
}

static void adapt(Engine& e, int adapter, int place, int rank) {
  LowRank& l = e.add_low_rank(adapter, place, rank % 2 ? Type::F16 : Type::F32, rank, 0.5f);
  std::mt19937 own(place + adapter);
  for (Matrix* m : {&l.down, &l.up}) {
    size_t bytes = (size_t)m->columns * layout(m->type).file_bytes;
    std::vector<uint8_t> raw(bytes * m->rows);
    for (size_t at = 0; at < raw.size(); at += layout(m->type).file_bytes) {
      float value = (float)((int)(own() % 2001) - 1000) * 1e-4f;
      uint16_t half = (uint16_t)(0x2c00 + own() % 0x400);
      if (m->type == Type::F32) memcpy(&raw[at], &value, 4);
      else memcpy(&raw[at], &half, 2);
    }
    pack_rows(*m, 0, 0, raw.data(), bytes, m->rows);
  }
}

static std::unique_ptr<Engine> engine(std::shared_ptr<Pool> pool, const char* kernels, int threads, bool fine) {
  Builder b;
  int x = b.buffer(WIDTH), n = b.buffer(WIDTH), q = b.buffer(WIDTH), k = b.buffer(KV_HEADS * DIM), v = b.buffer(KV_HEADS * DIM);
  int turned = b.buffer(WIDTH), turned_k = b.buffer(KV_HEADS * DIM), y = b.buffer(WIDTH), x2 = b.buffer(WIDTH);
  int scores = b.buffer(CHOICES), ids = b.buffer(CHOSEN), weights = b.buffer(CHOSEN), x3 = b.buffer(WIDTH), h = b.buffer(96);
  int mixed = b.buffer(WIDTH), rq = b.buffer(2 * KEYS), rk = b.buffer(2 * KEYS), rv = b.buffer(STATES * VALUES);
  int decay = b.buffer(STATES), beta = b.buffer(STATES), carried = b.buffer(STATES * VALUES), x4 = b.buffer(WIDTH);
  int last = b.buffer(WIDTH, true), final_ = b.buffer(WIDTH, true), logits = b.buffer(VOCAB, true);
  b.add(Op::EMBED, WIDTH, 0, {x}, {}, {0}, {0}, {});
  b.add(Op::NORM, WIDTH, WIDTH, {n}, {x}, {1, -1}, {1, 0}, {1e-5f});
  b.add(Op::LINEARS, WIDTH, WIDTH, {q, k, v}, {n}, {2, -1, 3, -1, 4, -1}, {}, {});
  b.add(Op::ROPE, WIDTH, WIDTH, {turned}, {q}, {}, {HEADS, 0, DIM, 0}, {});
  b.add(Op::ROPE, KV_HEADS * DIM, KV_HEADS * DIM, {turned_k}, {k}, {}, {KV_HEADS, 0, DIM, 0}, {});
  b.add(Op::WRITE_KV, 0, KV_HEADS * DIM, {}, {turned_k, v}, {}, {0}, {});
  b.add(Op::ATTEND, WIDTH, WIDTH, {y}, {turned}, {-1}, {0, HEADS, 1, 100}, {0.25f, 0});
  b.add(Op::LINEAR, WIDTH, WIDTH, {x2}, {y, x}, {5, -1}, {}, {});
  b.add(Op::NORM, WIDTH, WIDTH, {n}, {x2}, {1, -1}, {1, 0}, {1e-5f});
  b.add(Op::LINEAR, CHOICES, WIDTH, {scores}, {n}, {6, -1}, {}, {});
  b.add(Op::ROUTE, CHOSEN, CHOICES, {ids, weights}, {scores}, {-1, -1}, {CHOSEN, 0, 1, 0, 0, 0}, {0, 1, 0});
  b.add(Op::EXPERTS, WIDTH, WIDTH, {y}, {n, ids, weights}, {7, -1, 8, -1, 9, -1}, {CHOSEN, 0, 0, 1, CHOICES}, {INFINITY, 1, 0});
  b.add(Op::ADD, WIDTH, WIDTH, {x3}, {x2, y}, {}, {}, {});
  b.add(Op::NORM, WIDTH, WIDTH, {n}, {x3}, {1, -1}, {1, 0}, {1e-5f});
  b.add(Op::CONVOLVE, WIDTH, WIDTH, {mixed}, {n}, {13, -1}, {0, 3, 0}, {});
  b.add(Op::LINEARS, 2 * KEYS, WIDTH, {rq, rk, rv}, {mixed}, {14, -1, 15, -1, 16, -1}, {}, {});
  b.add(Op::SLICE, STATES, WIDTH, {decay}, {mixed}, {}, {1, 0, STATES}, {});
  b.add(Op::ACTIVATE, STATES, STATES, {beta}, {decay}, {}, {4}, {});
  b.add(Op::CLIP, STATES, STATES, {decay}, {decay}, {}, {}, {-2, -0.01f});
  b.add(Op::RECUR, STATES * VALUES, 2 * KEYS, {carried}, {rq, rk, rv, decay, beta}, {}, {1, STATES, 2, KEYS, VALUES, 1, 0, 1}, {});
  b.add(Op::LINEAR, WIDTH, STATES * VALUES, {x4}, {carried, x3}, {17, -1}, {}, {});
  b.add(Op::NORM, WIDTH, WIDTH, {n}, {x4}, {1, -1}, {1, 0}, {1e-5f});
  b.add(Op::GLU_LINEAR, 96, WIDTH, {h}, {n}, {10, -1, 11, -1}, {2}, {INFINITY, 1, 0});
  b.add(Op::LINEAR, WIDTH, 96, {x}, {h, x4}, {12, -1}, {}, {});
  b.add(Op::LAST_ROWS, WIDTH, WIDTH, {last}, {x}, {}, {}, {}, true);
  b.add(Op::NORM, WIDTH, WIDTH, {final_}, {last}, {1, -1}, {1, 0}, {1e-5f}, true);
  b.add(Op::LINEAR, VOCAB, WIDTH, {logits}, {final_}, {0, -1}, {}, {}, true);
  auto e = std::make_unique<Engine>(b.program, b.numbers, b.widths, b.wanted, logits, pool, kernels, threads, 48, fine);
  fill(*e, 0, Type::Q8_0, 1, VOCAB, WIDTH);
  e->add_row(1, std::vector<float>(WIDTH, 1.0f));
  fill(*e, 2, Type::Q4_0, 1, WIDTH, WIDTH);
  fill(*e, 3, Type::Q4_1, 1, KV_HEADS * DIM, WIDTH);
  fill(*e, 4, Type::Q5_0, 1, KV_HEADS * DIM, WIDTH);
  fill(*e, 5, Type::Q5_1, 1, WIDTH, WIDTH);
  fill(*e, 6, Type::F32, 1, CHOICES, WIDTH);
  fill(*e, 7, Type::Q4_0, EXPERTS, HIDDEN, WIDTH);
  fill(*e, 8, Type::IQ4_NL, EXPERTS, HIDDEN, WIDTH);
  fill(*e, 9, Type::Q8_0, EXPERTS, WIDTH, HIDDEN);
  fill(*e, 10, Type::Q4_0, 1, 96, WIDTH);
  fill(*e, 11, Type::Q4_0, 1, 96, WIDTH);
  fill(*e, 12, Type::Q8_0, 1, WIDTH, 96);
  std::vector<float> taps(3 * WIDTH);
  for (size_t i = 0; i < taps.size(); i++) taps[i] = 0.1f * (float)(i % 7) - 0.2f;
  e->add_row(13, taps);
  fill(*e, 14, Type::Q4_0, 1, 2 * KEYS, WIDTH);
  fill(*e, 15, Type::Q8_0, 1, 2 * KEYS, WIDTH);
  fill(*e, 16, Type::Q4_0, 1, STATES * VALUES, WIDTH);
  fill(*e, 17, Type::Q4_0, 1, WIDTH, STATES * VALUES);
  for (int a = 0; a < 2; a++) {
    e->add_adapter();
    for (int place : {0, 2, 3, 5, 6, 10, 12, 14, 16, 17})
      if ((place + a) % 3) adapt(*e, a, place, 1 + (place * 5 + a) % 20);
  }
  e->ready();
  return e;
}

static std::shared_ptr<Table> table(int positions) {
  auto t = std::make_shared<Table>();
  t->columns = DIM / 2;
  t->positions = positions;
  for (int p = 0; p < positions; p++)
    for (int i = 0; i < DIM / 2; i++) {
      float angle = (float)p / (float)(1 << i);
      t->cos.push_back(std::cos(angle));
      t->sin.push_back(std::sin(angle));
    }
  return t;
}

struct Request {
  std::unique_ptr<Sequence> sequence;
  std::vector<int32_t> tokens;
};

// Samplers of random options on random logits: what they choose is allowed and exists.
static void check_samplers() {
  for (int i = 0; i < 400; i++) {
    int vocab = 1 + below(3000);
    std::vector<float> logits(vocab);
    for (float& l : logits) l = (float)(below(2000) - 1000) / (below(2) ? 50 : 1);
    std::vector<int32_t> prompt{below(vocab), below(vocab), vocab + 5};
    Sampler sampler({below(3) * 0.7, below(2) ? 1 : 0.9, below(2) ? 0 : 0.05, below(2) ? 0 : below(40), below(2) ? 1 : 1.2,
                     below(2) * 0.5, below(2) * 0.5, (uint64_t)i}, prompt.data(), prompt.size());
    sampler.alternatives = below(8) - 1;
    if (below(2)) sampler.bias(below(2 * vocab), 3);
    int only = below(vocab);
    if (below(3) == 0) {
      std::vector<uint32_t> words(only / 32 + 1);
      words[only / 32] = 1u << (only % 32);
      sampler.allow(words);
    }
    for (int n = 0; n < 20; n++) {
      int32_t token = sampler.choose(logits.data(), vocab);
      if (token < 0 || token >= vocab) throw std::runtime_error("a token outside the vocabulary was drawn");
    }
  }
}

// Two lanes at once, on beginnings that both share: several tokens a call are those that come one by one, alone.
static bool check_lanes(int requests) {
  auto turn = table(512);
  auto pool = std::make_shared<Pool>(std::vector<CacheShape>{{KV_HEADS, DIM, DIM, false, 1, 100}}, KV::F16, 1u << 22, 48, FIXED, EVERY);
  auto whole = engine(pool, "", 1, false);
  std::mutex lock;  // of what is kept, as the scheduler's
  std::vector<Request> kept;
  std::atomic<bool> same = true;
  auto lane = [&](int number) {
    Engine mine(*whole, 1 + number), alone(*whole, 1);
    std::mt19937 own(number);
    auto less = [&](int n) { return (int)(own() % (unsigned)n); };
    for (int i = 0; i < requests; i++) {
      Request r;
      {
        std::lock_guard guard(lock);
        if (!kept.empty()) {
          const Request& other = kept[less((int)kept.size())];
          int shared = other.sequence->nearest(less(other.sequence->length + 1));
          r.sequence = other.sequence->fork(shared, 200);
          if (r.sequence) r.tokens.assign(other.tokens.begin(), other.tokens.begin() + shared);
        }
        if (!r.sequence) {
          r.sequence = std::make_unique<Sequence>(pool, 200);
          r.sequence->adapter = less(3) - 1;
        }
      }
      r.sequence->ropes = {turn};
      if ((int)r.tokens.size() > 120) continue;
      int begun = (int)r.tokens.size(), fresh = 1 + less(40);
      for (int n = 0; n < fresh; n++) r.tokens.push_back(less(VOCAB));
      SamplingOptions options{0.8, 0.9, 0, 0, 1, 0, 0, (uint64_t)i};
      Sampler draws(options, nullptr, 0), again(options, nullptr, 0);
      draws.ends = {3};
      Feed feed{r.sequence.get(), r.tokens.data() + begun, fresh, true, &draws, 1 + less(30)};
      Drawn drawn = mine.draw({feed}, 0.001 * less(3));
      if (i % 4 == 0) {
        Sequence second(pool, 200);
        second.adapter = r.sequence->adapter;
        second.ropes = {turn};
        std::vector<int32_t> fed = r.tokens;
        for (int32_t token : drawn.tokens[0]) {
          if (alone.draw({{&second, fed.data(), (int)fed.size(), true, &again}}, 0).tokens[0] != std::vector{token}) same = false;
          fed = {token};
        }
      }
      r.tokens.insert(r.tokens.end(), drawn.tokens[0].begin(), drawn.tokens[0].end());
      r.tokens.resize(r.sequence->length);  // the last one drawn was not fed
      if (drawn.seconds.size() != drawn.tokens[0].size()) same = false;
      std::lock_guard guard(lock);
      kept.push_back(std::move(r));
      if (kept.size() > 4) kept.erase(kept.begin());
    }
  };
  std::thread first(lane, 0), second(lane, 1);
  first.join();
  second.join();
  kept.clear();
  return same && pool->pages_in_use() == 0 && pool->bytes_in_use() == 0;
}

int main(int, char** arguments) {
  int requests = arguments[1] ? atoi(arguments[1]) : 300;
  check_samplers();
  if (!check_lanes(requests)) {
    printf("steps at once differ from those one by one\n");
    return 1;
  }
  auto turn = table(512);
  for (KV kind : {KV::F16, KV::I8, KV::F32}) {
    auto pool = std::make_shared<Pool>(std::vector<CacheShape>{{KV_HEADS, DIM, DIM, false, 1, 100}}, kind, 1u << 22, 48, FIXED, EVERY);
    auto sets = kernel_sets();  // one after the other, each beside the fastest
    auto e = engine(pool, sets[(size_t)kind % sets.size()]->name, 3, kind != KV::F16);
    auto alone = engine(pool, "", 1, kind != KV::F16);
    std::vector<Request> running;
    std::map<int, int> refused;
    int done = 0, checked = 0;
    while (done < requests) {
      while ((int)running.size() < 1 + below(6)) {  // someone joins, at times on another's beginning
        Request r;
        try {
          if (!running.empty() && below(3) == 0) {
            const Request& other = running[below((int)running.size())];
            int shared = other.sequence->nearest(below(other.sequence->length + 1));
            r.sequence = other.sequence->fork(shared, 300);
            if (r.sequence) r.tokens.assign(other.tokens.begin(), other.tokens.begin() + shared);
          }
          if (!r.sequence) {
            r.sequence = std::make_unique<Sequence>(pool, 300);
            r.sequence->adapter = below(3) - 1;
          }
        } catch (const Refused&) {
          refused[done]++;
          break;
        }
        r.sequence->ropes = {turn};
        running.push_back(std::move(r));
      }
      std::vector<std::vector<int32_t>> fresh(running.size());
      std::vector<Feed> feeds;
      for (size_t i = 0; i < running.size(); i++) {
        int n = below(4) ? 1 : 1 + below(70);
        n = std::min(n, 300 - running[i].sequence->length);
        for (int k = 0; k < n; k++) fresh[i].push_back(below(VOCAB));
        if (n) feeds.push_back({running[i].sequence.get(), fresh[i].data(), n, true});
        running[i].tokens.insert(running[i].tokens.end(), fresh[i].begin(), fresh[i].end());
      }
      if (feeds.empty()) {
        running.clear();
        done++;
        continue;
      }
      std::vector<float> logits(feeds.size() * VOCAB);
      e->step(feeds, false, logits.data());
      size_t which = (size_t)below((int)feeds.size());
      Sequence* watched = feeds[which].sequence;
      if (below(8) == 0)
        for (Request& r : running)
          if (r.sequence.get() == watched) {  // the same text, alone, on one thread
            Sequence again(pool, 300);
            again.adapter = watched->adapter;
            again.ropes = {turn};
            std::vector<float> expected(VOCAB);
            std::vector<Feed> one{{&again, r.tokens.data(), (int)r.tokens.size(), true}};
            alone->step(one, false, expected.data());
            if (memcmp(expected.data(), logits.data() + which * VOCAB, VOCAB * sizeof(float))) {
              printf("different bits after %zu tokens\n", r.tokens.size());
              return 1;
            }
            checked++;
          }
      for (size_t i = running.size(); i-- > 0;) {
        Request& r = running[i];
        if (below(10) == 0 || r.sequence->length >= 299) {  // cancelled, or done
          running.erase(running.begin() + (long)i);
          done++;
        } else if (below(12) == 0) {
          int to = r.sequence->nearest(below(r.sequence->length + 1));
          if (r.sequence->rewind(to)) r.tokens.resize(to);
        }
      }
    }
    running.clear();
    printf("%d requests, %d checked alone, %zu times refused, %zu pages left\n", done, checked, refused.size(), pool->pages_in_use());
    if (pool->pages_in_use() || pool->bytes_in_use() || checked == 0) return 1;
  }
  return 0;
}
