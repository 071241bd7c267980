// The face that Python sees. Every call that computes lets go of the interpreter's lock.
#include <algorithm>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "checksum.h"
#include "quantise.h"
#include "engine.h"
#include "kernel_sets.h"
#include "machine.h"
#include "octets.h"
#include "system.h"

namespace nb = nanobind;
using namespace trilens;
using namespace nb::literals;

template <class T> using Rows = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T> using Row = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T> using Out = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<2>, nb::device::cpu>;

// While it lives the thread computes without the interpreter's lock. Python ends a daemon thread where it asks for that
// lock again while the interpreter goes down, and an end inside C++ aborts the process: so `close`, called before that,
// waits for those who compute, and who comes later sleeps until the process is gone.
class Outside {
 public:
  Outside() {
    if (closed_) {
      PyEval_SaveThread();
      while (true) std::this_thread::sleep_for(std::chrono::hours(1));
    }
    computing_++;
    state_ = PyEval_SaveThread();
  }
  ~Outside() {
    PyEval_RestoreThread(state_);
    computing_--;
  }
  Outside(const Outside&) = delete;

  static void close() {
    if (process_number() != owner_) return;  // in a forked child nobody else computes, whatever the count was
    closed_ = true;
    nb::gil_scoped_release release;
    while (computing_ > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

 private:
  PyThreadState* state_;
  static inline std::atomic<bool> closed_{false};
  static inline std::atomic<int> computing_{0};
  static inline const long owner_ = process_number();
};

static std::pair<std::vector<Instruction>, std::vector<Numbers>> decoded(const Rows<int32_t>& integers, const Rows<float>& numbers) {
  if (integers.shape(1) * sizeof(int32_t) != sizeof(Instruction) || numbers.shape(1) != 4)
    throw Refused("the program was encoded for another version of the extension");
  std::vector<Instruction> program(integers.shape(0));
  std::vector<Numbers> all(integers.shape(0));
  memcpy(program.data(), integers.data(), program.size() * sizeof(Instruction));
  memcpy(all.data(), numbers.data(), all.size() * sizeof(Numbers));
  return {std::move(program), std::move(all)};
}

// The type, once it has its table (octets.h), which Python makes of the gguf package's.
static Type with_table(Type type) {
  const Layout& l = layout(type);
  if (l.entries == 0 || octet_table(type)) return type;
  auto table = nb::cast<Bytes>(nb::module_::import_("trilens.executors.native.grids").attr("grid")(l.name));
  if ((int)table.shape(0) != l.entries || table.shape(1) != (of_fours(type) ? 4u : 8u) || table.stride(1) != 1 ||
      table.stride(0) != (int64_t)table.shape(1))
    throw Refused(std::string("the grid of ") + l.name + " has another shape");
  set_octet_table(type, table.data(), table.size());
  return type;
}

static Type type_named(const std::string& name) {
  for (int t = 0; t < (int)Type::COUNT; t++)
    if (name == layout((Type)t).name) return (Type)t;
  throw Refused("no layout for the type " + name);
}

static const Kernels& kernels_named(const std::string& name) {
  for (const Kernels* k : kernel_sets())
    if (name == k->name) return *k;
  throw Refused("this processor has no kernels named " + name);
}

struct FileChecksums {
  std::shared_ptr<MappedFile> file;
  Checksums checksums;
  FileChecksums(std::shared_ptr<MappedFile> mapped, std::vector<uint64_t> cuts)
      : file(std::move(mapped)), checksums(file->data(), std::move(cuts)) {}
};

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);
  nb::exception<CacheFull>(m, "CacheFull", nb::exception<Refused>(m, "Refused").ptr());
  nb::exception<FileChanged>(m, "FileChanged");
  m.def("encode", [](const std::string& type, Row<float> x, nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig> out) {
    BlockSize block = encoded_block(type);
    if (block.values == 0) throw Refused("no encoder for the type " + type);
    if (x.size() % block.values != 0 || out.size() != x.size() / block.values * block.bytes)
      throw Refused("the values are not whole blocks of " + type);
    Outside outside;
    return encode(type, x.data(), x.size(), out.data());
  }, "values to the blocks of a file's type; false where one is not finite");
  m.def("close_gate", &Outside::close, "lets nobody compute from now on, and waits for those who do");

  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const Kernels* k : kernel_sets()) names.push_back(k->name);
    return names;
  });
  m.def("types", [] {
    std::map<std::string, std::tuple<int, int>> types;
    for (int t = 0; t < (int)Type::COUNT; t++) types[layout((Type)t).name] = {layout((Type)t).file_block, layout((Type)t).file_bytes};
    return types;
  }, "name -> (values, bytes) of a block in the file");
  m.def("packed_bytes", [](const std::string& type, int count, int rows, int columns) {
    return Matrix{type_named(type), count, rows, columns, nullptr}.bytes();
  });

  m.def("checksum", [](Row<uint8_t> data) {
    const uint8_t* bytes = data.data();
    size_t size = data.size();
    Outside outside;
    return checksum(bytes, size);
  });
  nb::class_<MappedFile>(m, "MappedFile")
      .def(nb::init<int, size_t, std::string>(), "descriptor"_a, "bytes"_a, "name"_a)
      .def("check", &MappedFile::check, "raises FileChanged once it was cut or written to");
  nb::class_<FileChecksums>(m, "Checksums")
      .def("__init__", [](FileChecksums* c, std::shared_ptr<MappedFile> file, std::vector<uint64_t> cuts) {
        if (!std::is_sorted(cuts.begin(), cuts.end()) || (!cuts.empty() && cuts.back() > file->bytes()))
          throw Refused("the pieces do not lie in the file");
        new (c) FileChecksums(std::move(file), std::move(cuts));
      })
      .def("work", [](FileChecksums& c) {
        Outside outside;
        c.checksums.work();
      }, "computes pieces until none is left; for any number of threads at once")
      .def("sums", [](const FileChecksums& c) {
        c.file->check();
        return c.checksums.sums();
      }, "of each piece, once every call of `work` has returned; raises FileChanged");

  m.def("memory_read_bytes_per_second", &memory_read_bytes_per_second, nb::call_guard<Outside>());

  nb::class_<Table>(m, "Table").def("__init__", [](Table* t, Rows<float> cos, Rows<float> sin) {
    new (t) Table{{cos.data(), cos.data() + cos.size()}, {sin.data(), sin.data() + sin.size()}, (int)cos.shape(1), (int)cos.shape(0)};
  });

  nb::class_<Pool>(m, "Pool")
      .def("__init__", [](Pool* p, Rows<int32_t> shapes, const std::string& kind, size_t limit, int most_rows,
                          std::vector<int> fixed, int snapshot_every) {
        std::vector<CacheShape> all;
        for (size_t c = 0; c < shapes.shape(0); c++) {
          const int32_t* s = shapes.data() + c * 6;
          all.push_back({s[0], s[1], s[2], s[3] != 0, s[4], s[5]});
        }
        new (p) Pool(std::move(all), kind == "f32" ? KV::F32 : kind == "f16" ? KV::F16 : KV::I8, limit, most_rows, fixed,
                     snapshot_every);
      }, "shapes"_a, "kind"_a, "limit"_a, "most_rows"_a, "fixed"_a = std::vector<int>(), "snapshot_every"_a = 0)
      .def_prop_ro("pages_in_use", &Pool::pages_in_use)
      .def_prop_ro("bytes_in_use", &Pool::bytes_in_use)
      .def_prop_ro("fixed_in_use", &Pool::fixed_in_use)
      .def_ro("limit", &Pool::limit)
      .def_prop_ro("block_bytes", [](const Pool& p) {
        size_t sum = 0;
        for (size_t c = 0; c < p.shapes.size(); c++) sum += p.page_bytes((int)c);
        return sum;
      })
      .def("need", &Pool::need);

  nb::class_<Block>(m, "Block")
      .def("__init__", [](Block* b, std::shared_ptr<Pool> pool, int tokens, int route_width, Row<uint8_t> data) {
        new (b) Block(std::move(pool), tokens, route_width, data.data(), data.size());
      })
      .def_ro("tokens", &Block::tokens)
      .def_ro("route_width", &Block::route_width)
      .def("routes", [](const Block& b, nb::ndarray<uint16_t, nb::ndim<2>, nb::c_contig> out) {
        if (out.size() != b.routes.size()) throw Refused("no routes of that many tokens are kept");
        std::copy_n(b.routes.data(), out.size(), out.data());
      })
      .def_prop_ro("kept_bytes", &Block::bytes)
      .def_prop_ro("own_bytes", &Block::own_bytes)
      .def_prop_ro("has_states", [](const Block& b) { return b.fixed || !b.pool->fixed_floats; })
      .def("written", [](const Block& b) {
        auto data = b.written();
        return nb::bytes((const char*)data.data(), data.size());
      });

  nb::class_<Sequence>(m, "Sequence")
      .def("__init__", [](Sequence* s, std::shared_ptr<Pool> pool, int request_length, std::vector<std::shared_ptr<Table>> ropes,
                          std::vector<std::shared_ptr<Table>> scales) {
        new (s) Sequence(std::move(pool), request_length);
        s->ropes = std::move(ropes);
        s->scales = std::move(scales);
      })
      .def_ro("length", &Sequence::length)
      .def_ro("request_length", &Sequence::request_length)
      .def_rw("adapter", &Sequence::adapter)
      .def_rw("wants_behind", &Sequence::wants_behind)
      .def_ro("behind_from", &Sequence::behind_from)
      .def("behind", [](const Sequence& s, int first, Out<float> out) {
        size_t at = (size_t)(first - s.behind_from) * out.shape(1);
        if (first < s.behind_from || at + out.size() > s.behind.size()) throw Refused("no rows of that many tokens are kept");
        std::copy_n(s.behind.data() + at, out.size(), out.data());
      }, "rows behind the last layer, of the last step's tokens from position `first` on")
      .def_prop_ro("kv_bytes", &Sequence::kv_bytes)
      .def_prop_ro("held_bytes", &Sequence::held_bytes)
      .def_prop_ro("fixed_bytes", [](const Sequence& s) { return s.pool()->fixed_floats * sizeof(float); })
      .def("nearest", &Sequence::nearest)
      .def("snapshot", [](Sequence& s) { s.fixed.keep(s.length); })
      .def("snapshot_at", [](Sequence& s, int length) {
        if (length > s.length && length <= s.request_length) s.fixed.ask(length);
      }, "length"_a, "keep a snapshot when so many tokens are there")
      .def_prop_ro("snapshot_bytes", [](const Sequence& s) { return s.fixed.kept_bytes(); })
      .def_ro("route_width", &Sequence::route_width)
      .def("routes", [](const Sequence& s, int first, nb::ndarray<uint16_t, nb::ndim<2>, nb::c_contig> out) {
        size_t at = (size_t)first * s.route_width;
        if (first < 0 || at + out.size() > s.routes.size()) throw Refused("no routes of that many tokens are kept");
        std::copy_n(s.routes.data() + at, out.size(), out.data());
      })
      .def("tables", [](Sequence& s, std::vector<std::shared_ptr<Table>> ropes, std::vector<std::shared_ptr<Table>> scales) {
        s.ropes = std::move(ropes);
        s.scales = std::move(scales);
      })
      .def("grow", &Sequence::grow)
      .def("block", [](const Sequence& s, int number) { return std::make_unique<Block>(s, number); })
      .def("adopt", &Sequence::adopt)
      .def("rewind", &Sequence::rewind)
      .def("take_back", &Sequence::take_back)
      .def("free", &Sequence::free)
      .def("fork", [](const Sequence& s, int to, int request_length, std::vector<std::shared_ptr<Table>> ropes,
                      std::vector<std::shared_ptr<Table>> scales) {
        auto copy = s.fork(to, request_length);
        if (copy) {
          copy->ropes = std::move(ropes);
          copy->scales = std::move(scales);
        }
        return copy;
      });

  nb::class_<Sampler>(m, "Sampler")
      .def("__init__", [](Sampler* s, double temperature, int64_t top_k, double top_p, double min_p, double repetition,
                          double presence, double frequency, uint64_t seed, Row<int32_t> prompt) {
        new (s) Sampler({temperature, top_p, min_p, top_k, repetition, presence, frequency, seed}, prompt.data(), prompt.size());
      })
      .def("choose", [](Sampler& s, Row<float> logits) {
        Outside outside;
        return s.choose(logits.data(), (int)logits.size());
      })
      .def("note", &Sampler::note)
      .def("speculate", [](Sampler& s, Row<int32_t> tokens, int most, bool always) {
        s.draft = std::make_unique<Draft>(std::vector<int32_t>(tokens.data(), tokens.data() + tokens.size()), most, always);
      }, "propose what followed the same tokens earlier; `tokens` come before all that is drawn or noted")
      .def("propose", [](Sampler& s, int most) {
        if (!s.draft) return std::make_tuple(std::vector<int32_t>(), 0);
        return std::make_tuple(s.draft->propose(most, s.draft->prices()), s.draft->forced(most, s.draft->prices()));
      }, "the tokens that pay at the last step's prices, and how many that a grammar leaves no choice about would")
      .def("predicts", [](const Sampler& s) { return s.draft && s.draft->predicts(s.draft->prices()); },
           "whether a token that the model's block predicts would pay")
      .def("predicted", [](Sampler& s, double seconds) {
        if (s.draft) s.draft->predicted(seconds);
      }, "one was predicted, in so many seconds")
      .def("bias", &Sampler::bias)
      .def("allow", [](Sampler& s, Row<uint32_t> words) { s.allow({words.data(), words.data() + words.size()}); })
      .def_rw("alternatives", &Sampler::alternatives)
      .def_rw("ends", &Sampler::ends)
      .def("take_report", [](Sampler& s) {
        std::vector<std::tuple<int, double>> report;
        if (s.reports.empty()) return report;
        for (const Alternative& a : s.reports.front()) report.emplace_back(a.token, a.log_probability);
        s.reports.pop_front();
        return report;
      }, "(token, log probability) of the first chosen token whose report nobody has taken yet: it, then the likeliest")
      .def("undo", &Sampler::undo)
      .def_ro("drawn", &Sampler::drawn)
      .def_ro("chosen", &Sampler::chosen)
      .def_ro("fault", &Sampler::fault);
  m.def("uniform", &uniform);
  m.def("exp_negative", &exp_negative);

  nb::class_<Engine>(m, "Engine")
      .def("__init__", [](Engine* e, Rows<int32_t> integers, Rows<float> numbers, std::vector<int> widths, std::vector<bool> wanted,
                          int logits, std::shared_ptr<Pool> pool, const std::string& kernels, int threads, int most_rows, bool fine) {
        auto [program, all] = decoded(integers, numbers);
        new (e) Engine(std::move(program), std::move(all), std::move(widths), std::move(wanted), logits, std::move(pool), kernels,
                       threads, most_rows, fine);
      })
      .def("with_program", [](const Engine& e, Rows<int32_t> integers, Rows<float> numbers, std::vector<int> widths,
                              std::vector<bool> wanted, int logits, std::shared_ptr<Pool> pool, int threads) {
        auto [program, all] = decoded(integers, numbers);
        return std::make_unique<Engine>(e, std::move(program), std::move(all), std::move(widths), std::move(wanted), logits,
                                        std::move(pool), threads);
      }, "the same weights under another program, not `ready` yet")
      .def("beside", [](const Engine& e, int threads) { return std::make_unique<Engine>(e, threads); }, "threads"_a,
           "the same weights with threads and scratch memory of its own")
      .def("add_matrix", [](Engine& e, int place, const std::string& type, int count, int rows, int columns) {
        e.add_matrix(place, with_table(type_named(type)), count, rows, columns);
      })
      .def("map_matrix", [](Engine& e, int place, const std::string& type, int count, int rows, int columns,
                            std::shared_ptr<MappedFile> file, size_t at) {
        e.map_matrix(place, with_table(type_named(type)), count, rows, columns, std::move(file), at);
      }, "a matrix that lies packed in a file, from byte `at` on")
      .def("in_file", &Engine::in_file)
      .def("packed", [](nb::handle self, int place) {
        const Matrix& m = nb::cast<const Engine&>(self).matrix(place);
        return nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(m.data, {m.bytes()}, self);
      }, "the bytes of a matrix as they lie in memory")
      .def("pack", [](Engine& e, int place, int which, int first, Bytes rows) {
        Matrix& m = const_cast<Matrix&>(e.matrix(place));
        const Layout& l = layout(m.type);
        if (e.in_file(place)) throw Refused("a matrix that lies in a file cannot be packed");
        if (rows.shape(1) != (size_t)m.columns / l.file_block * l.file_bytes || (rows.shape(1) && rows.stride(1) != 1) ||
            which < 0 || which >= m.count || first < 0 || first + (int)rows.shape(0) > m.rows ||
            first % 8 || (rows.shape(0) % 8 && first + (int)rows.shape(0) != m.rows))
          throw Refused(std::to_string(rows.shape(0)) + " rows of " + std::to_string(rows.shape(1)) + " bytes from row " +
                        std::to_string(first) + " on do not fit a " + l.name + " matrix of " +
                        std::to_string(m.rows) + " x " + std::to_string(m.columns));
        const uint8_t* data = rows.data();
        Outside outside;
        pack_rows(m, which, first, data, rows.stride(0), (int)rows.shape(0));
      })
      .def("add_adapter", &Engine::add_adapter, "its number")
      .def("add_low_rank", [](Engine& e, int adapter, int place, const std::string& type, int rank, float scale, Bytes down, Bytes up) {
        LowRank& l = e.add_low_rank(adapter, place, type_named(type), rank, scale);
        for (auto [m, rows] : {std::pair(&l.down, &down), std::pair(&l.up, &up)}) {
          const Layout& of = layout(m->type);
          if (rows->shape(0) != (size_t)m->count * m->rows || rows->shape(1) != (size_t)m->columns / of.file_block * of.file_bytes ||
              rows->stride(1) != 1)
            throw Refused("the matrices of an adapter do not fit their rank");
          for (int which = 0; which < m->count; which++)
            pack_rows(*m, which, 0, rows->data() + (size_t)which * m->rows * rows->stride(0), rows->stride(0), m->rows);
        }
      }, "rows of the two matrices as a file has them")
      .def("adapter_bytes", &Engine::adapter_bytes)
      .def("add_row", [](Engine& e, int place, Row<float> row) { e.add_row(place, {row.data(), row.data() + row.size()}); })
      .def("unpack", [](const Engine& e, int place, int which, int row, Out<float> out) {
        unpack_row(e.matrix(place), which, row, out.data());
      })
      .def("ready", &Engine::ready)
      .def("step", [](Engine& e, std::vector<Sequence*> sequences, std::vector<Row<int32_t>> tokens,
                       std::vector<bool> logits, bool all, Out<float> out, std::vector<Rows<float>> rows) {
        std::vector<Feed> feeds;
        for (size_t i = 0; i < sequences.size(); i++) {
          feeds.push_back({sequences[i], tokens[i].data(), (int)tokens[i].size(), logits[i]});
          if (rows.empty()) continue;
          if (rows.size() != sequences.size() || rows[i].shape(0) != tokens[i].size() || (int)rows[i].shape(1) != e.given_width())
            throw Refused("the rows beside a feed's tokens do not fit them");
          feeds.back().rows = rows[i].data();
        }
        float* to = out.data();
        Outside outside;
        e.step(feeds, all, to);
      }, "sequences"_a, "tokens"_a, "logits"_a, "all"_a, "out"_a, "rows"_a = std::vector<Rows<float>>())
      .def("keep_behind", &Engine::keep_behind)
      .def("draw", [](Engine& e, std::vector<Sequence*> sequences, std::vector<std::vector<int32_t>> tokens,
                       std::vector<std::optional<Sampler*>> samplers, std::vector<int> most, std::vector<int> look,
                       std::vector<std::optional<std::tuple<std::vector<int32_t>, int, Rows<uint32_t>, int>>> given, double ahead) {
        std::vector<Feed> feeds;
        std::vector<Proposal> proposals(sequences.size());
        for (size_t i = 0; i < sequences.size(); i++) {
          feeds.push_back({sequences[i], tokens[i].data(), (int)tokens[i].size(), samplers[i].has_value(),
                           samplers[i].value_or(nullptr), most[i], look[i]});
          if (!given[i]) continue;
          auto& [proposed, looked_up, allowed, predicted] = *given[i];
          if (allowed.shape(0) != proposed.size() || looked_up + predicted > (int)proposed.size() || !samplers[i] || most[i] != 1)
            throw Refused("a proposal of " + std::to_string(proposed.size()) + " tokens does not fit its feed");
          proposals[i] = {proposed, looked_up, {}, predicted};
          for (size_t row = 0; row < proposed.size(); row++) {
            const uint32_t* words = allowed.data() + row * allowed.shape(1);
            proposals[i].allowed.emplace_back(words, words + allowed.shape(1));
          }
          feeds.back().proposal = &proposals[i];
        }
        Drawn drawn;
        {
          Outside outside;
          drawn = e.draw(std::move(feeds), ahead);
        }
        return std::make_tuple(std::move(drawn.tokens), std::move(drawn.seconds), std::move(drawn.passes), std::move(drawn.drafts));
      })
      .def_prop_ro("threads", &Engine::threads)
      .def_prop_ro("kernels", [](const Engine& e) { return e.kernels().name; })
      .def_prop_ro("weight_bytes", &Engine::weight_bytes)
      .def("counts", [](const Engine& e) {
        nb::dict d;
        d["steps"] = e.counts.steps;
        d["passes"] = e.counts.passes;
        d["tokens"] = e.counts.tokens;
        d["seconds"] = std::vector<double>(e.counts.seconds.begin(), e.counts.seconds.end());
        d["bytes"] = std::vector<uint64_t>(e.counts.bytes.begin(), e.counts.bytes.end());
        d["experts"] = e.counts.experts;
        return d;
      })
      .def_rw("keep_routes", &Engine::keep_routes)
      .def("trace_routes", [](Engine& e, bool on) {
        delete e.trace;
        delete e.trace_weights;
        e.trace = on ? new std::vector<std::vector<int32_t>>(e.counts.experts.size()) : nullptr;
        e.trace_weights = on ? new std::vector<std::vector<float>>(e.counts.experts.size()) : nullptr;
      })
      .def("routes", [](Engine& e) {
        std::vector<std::vector<int32_t>> ids;
        std::vector<std::vector<float>> weights;
        if (e.trace) {
          ids.swap(*e.trace);
          weights.swap(*e.trace_weights);
          e.trace->resize(ids.size());
          e.trace_weights->resize(ids.size());
        }
        return std::make_tuple(ids, weights);
      });

  // For tests: one kernel on its own.
  m.def("quantise", [](const std::string& kernels, Row<float> x, nb::ndarray<int8_t, nb::ndim<1>> codes, nb::ndarray<float, nb::ndim<1>> scales) {
    std::vector<Group> groups(scales.size());
    kernels_named(kernels).quantise(x.data(), (int)x.size(), 0, {groups.data(), groups.size(), false}, 0);
    for (size_t g = 0; g < groups.size(); g++) {
      memcpy(codes.data() + g * 32, groups[g].codes, 32);
      scales.data()[g] = groups[g].scale;
    }
  });
  m.def("product", [](const std::string& kernels, const std::string& type, Bytes rows, Rows<float> x, bool fine, Out<float> y) {
    const Kernels& k = kernels_named(kernels);
    Matrix w{with_table(type_named(type)), 1, (int)rows.shape(0), (int)x.shape(1), nullptr};
    std::vector<uint8_t> data(w.bytes() + 64);
    w.data = data.data();
    pack_rows(w, 0, 0, rows.data(), rows.stride(0), w.rows);
    size_t n = x.shape(0), stride = (x.shape(1) + 31) / 32 * (fine ? 2 : 1);
    std::vector<Group> groups(n * stride);
    std::vector<float> result(n * w.tiles() * 8);
    for (size_t r = 0; r < n; r++) k.quantise(x.data() + r * x.shape(1), (int)x.shape(1), r, {groups.data(), stride, fine}, 0);
    Activations a{x.data(), x.shape(1), groups.data(), stride, fine, nullptr};
    k.product(w, 0, 0, w.tiles(), a, (int)n, result.data(), w.tiles() * 8);
    for (size_t r = 0; r < n; r++) memcpy(y.data() + r * w.rows, result.data() + r * w.tiles() * 8, w.rows * sizeof(float));
  });
  m.def("packed", [](const std::string& type, Bytes rows, nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig> out, int columns) {
    Matrix w{with_table(type_named(type)), 1, (int)rows.shape(0), columns, out.data()};
    if (out.size() != w.bytes()) throw Refused("the packed matrix has another size");
    pack_rows(w, 0, 0, rows.data(), rows.stride(0), w.rows);
  });
  m.def("unpacked", [](const std::string& type, Bytes rows, Out<float> out) {
    Matrix w{with_table(type_named(type)), 1, (int)rows.shape(0), (int)out.shape(1), nullptr};
    std::vector<uint8_t> data(w.bytes() + 64);
    w.data = data.data();
    pack_rows(w, 0, 0, rows.data(), rows.stride(0), w.rows);
    for (int r = 0; r < w.rows; r++) unpack_row(w, 0, r, out.data() + (size_t)r * w.columns);
  });
  m.def("glu", [](const std::string& kernels, int curve, float clamp, float slope, float offset, Row<float> gate, Row<float> up,
                  nb::ndarray<float, nb::ndim<1>> y) {
    kernels_named(kernels).glu(gate.data(), up.data(), y.data(), (int)gate.size(), {(Curve)curve, clamp, slope, offset, clamp});
  });
  m.def("activate", [](const std::string& kernels, int curve, Row<float> x, nb::ndarray<float, nb::ndim<1>> y) {
    kernels_named(kernels).activate(x.data(), y.data(), (int)x.size(), (Curve)curve);
  });
  m.def("recur", [](const std::string& kernels, bool delta, Rows<float> q, Rows<float> k, Rows<float> v, Rows<float> decay,
                    Rows<float> beta, Rows<float> from, Out<float> to, Out<float> y) {
    int key_dim = (int)k.shape(1), columns = (int)v.shape(1);
    std::vector<float> scratch(4 * key_dim);
    bool vector = decay.shape(1) > 1;
    kernels_named(kernels).recur({from.data(), to.data(), key_dim, columns, (int)v.shape(0), delta, vector, q.data(), k.data(),
                                  v.data(), decay.data(), beta.data(), q.shape(1), k.shape(1), v.shape(1), decay.shape(1), 1,
                                  v.shape(1), y.data(), scratch.data()});
  });
  // Rows of one key-value head over positions first[r]..last[r] of `keys` and `values` (null: latent), stored as `kind`.
  m.def("attend", [](const std::string& kernels, int kind_, Rows<float> q, int group, Rows<float> keys,
                     std::optional<Rows<float>> values, Row<int32_t> first, Row<int32_t> last, float scale, float cap,
                     Out<float> y) {
    const Kernels& k = kernels_named(kernels);
    const KV kind = (KV)kind_;
    const int rows = (int)q.shape(0), key_dim = (int)q.shape(1), dim = (int)y.shape(1), positions = (int)keys.shape(0);
    const size_t size = kind == KV::F32 ? 4 : kind == KV::F16 ? 2 : 1, pages = (positions + PAGE - 1) / PAGE;
    std::vector<std::vector<uint8_t>> key_pages, value_pages;
    std::vector<float> key_scales(pages * PAGE), value_scales(pages * PAGE);
    std::vector<KVBlock> blocks;
    for (size_t p = 0; p < pages; p++) {
      uint8_t* at = key_pages.emplace_back(PAGE * key_dim * size).data();
      uint8_t* value_at = values ? value_pages.emplace_back(PAGE * dim * size).data() : nullptr;
      blocks.push_back({at, value_at, &key_scales[p * PAGE], &value_scales[p * PAGE]});
      for (int i = 0; i < PAGE && (int)p * PAGE + i < positions; i++) {
        size_t position = p * PAGE + i;
        k.store_kv(keys.data() + position * key_dim, key_dim, kind, at + i * size, PAGE, &key_scales[position]);
        if (values) k.store_kv(values->data() + position * dim, dim, kind, value_at + i * dim * size, 1, &value_scales[position]);
      }
    }
    AttendRows a{q.data(), (size_t)group * key_dim, rows, group, key_dim, dim, kind, !values, scale, cap, first.data(), last.data(), nullptr};
    std::vector<float> scratch(rows * PAGE), sums(rows * dim), total(rows * dim);
    std::vector<Partial> partials(rows), totals(rows, {-INFINITY, 0});
    for (int b = 0; b < (int)pages; b += SPAN / PAGE) {
      k.attend(a, blocks.data() + b, b, std::min(b + SPAN / PAGE, (int)pages), scratch.data(), sums.data(), dim, partials.data());
      for (int r = 0; r < rows; r++) k.merge(totals[r], &total[r * dim], partials[r], &sums[r * dim], dim);
    }
    for (int r = 0; r < rows; r++) k.finish(totals[r], &total[r * dim], nullptr, y.data() + r * dim, dim);
  });
  m.def("above", [](const std::string& kernels, float deviations, Row<float> x, nb::ndarray<float, nb::ndim<1>> y) {
    kernels_named(kernels).above(x.data(), deviations, y.data(), (int)x.size());
  });
  m.def("softcap", [](const std::string& kernels, float cap, Row<float> x, nb::ndarray<float, nb::ndim<1>> y) {
    kernels_named(kernels).softcap(x.data(), cap, y.data(), (int)x.size());
  });
  m.def("to_f16", [](const std::string& kernels, Row<float> x, nb::ndarray<uint16_t, nb::ndim<1>> y) {
    kernels_named(kernels).store_kv(x.data(), (int)x.size(), KV::F16, (uint8_t*)y.data(), 1, nullptr);
  });
}
