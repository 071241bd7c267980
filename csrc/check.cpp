#include <string>

#include "engine_parts.h"

namespace trilens {

// What every instruction takes for granted of its numbers, in every build. The spec is checked before (spec/bounds.py);
// here a number that got through could make a kernel read or write outside its buffers.

static void need(bool so, const char* what) {
  if (!so) throw Refused(std::string("this program cannot be run: ") + what);
}

static bool divides(int part, int whole) { return part > 0 && whole > 0 && whole % part == 0; }

static void check_product(const Instruction& s, const Matrix& m, int width) {
  if (s.op == Op::HEAD_LINEAR) {
    need(m.count == s.i[0] && (int64_t)m.count * m.columns == s.input_width && (int64_t)m.count * m.rows == width,
         "the matrices of heads do not fit their rows");
  } else {
    need(m.columns == s.input_width && m.rows == width, "a matrix does not fit its rows");
  }
}

static void check_route(const Instruction& s) {
  int experts = s.input_width, chosen = s.i[0], groups = s.i[3];
  need(chosen >= 1 && chosen <= experts && s.width == chosen, "a router chooses more experts than there are");
  if (groups == 0) return;
  need(divides(groups, experts), "groups do not share out the experts");
  int size = experts / groups;
  need(s.i[4] >= 1 && s.i[4] <= groups && s.i[5] >= 1 && s.i[5] <= size, "a router's groups are too few or too small");
  need((int64_t)s.i[4] * size >= chosen, "a router chooses more experts than its groups leave");
}

void check(const std::vector<Instruction>& program, const std::vector<int>& widths, const std::vector<Parameter>& parameters,
           const std::vector<CacheShape>& caches, const std::vector<int>& fixed) {
  for (const CacheShape& c : caches) {
    need(c.kv_heads >= 1 && c.key_dim >= 1 && c.value_dim >= 1, "a cache has no width");
    need(!c.latent || (c.kv_heads == 1 && c.value_dim <= c.key_dim), "a latent cache's value is wider than its key");
    need(c.mask == 0 || c.mask_size >= 1, "a window is empty");
  }
  std::vector<std::pair<int, int>> routes(widths.size());  // what a buffer holds of a router: chosen, of how many
  for (const Instruction& s : program) {
    auto matrix = [&](int p) -> const Matrix& { return parameters[s.param[p]].matrix; };
    auto row = [&](int p, size_t size) {
      need(s.param[p] < 0 || parameters[s.param[p]].row.size() == size, "a row of weights has another length");
    };
    switch (s.op) {
      case Op::EMBED: need(matrix(0).columns == s.width, "the embedding has another width"); break;
      case Op::NORM:
        need(divides(s.i[0], s.width), "a norm's groups do not share out its row");
        for (int p = 0; p < 2; p++) row(p, s.width / s.i[0]);
        break;
      case Op::ROPE:
        need(divides(s.i[0], s.width), "heads do not share out a row");
        need(s.i[2] >= 2 && s.i[2] % 2 == 0 && s.i[2] <= s.width / s.i[0], "more dimensions turn than a head has");
        break;
      case Op::SLICE:
        need(divides(s.i[0], s.input_width), "groups do not share out a row");
        need(s.i[1] >= 0 && s.i[1] < s.i[2] && s.i[2] <= s.input_width / s.i[0], "a slice lies outside its row");
        break;
      case Op::JOIN: need(divides(s.i[0], s.width) && divides(s.i[0], s.input_width), "groups do not share out a row"); break;
      case Op::MUL:
        need(divides((int)parameters[s.param[0]].row.size(), s.width), "a row of factors has another length");
        break;
      case Op::GLU: need(divides(s.input_width, s.width), "a gate does not share out its row"); break;
      case Op::RESIZED:
        need(divides(s.i[0], s.width) && s.input_width == s.width && s.width / s.i[0] <= widths[s.in[1]],
             "parts do not share out a row");
        break;
      case Op::MIX: {
        need(divides(s.i[0], s.input_width), "parts do not share out a row");
        int part = s.input_width / s.i[0];
        need(divides(part, s.width) && (int64_t)(s.width / part) * s.i[0] <= widths[s.in[1]], "weights do not fit their parts");
        break;
      }
      case Op::LINEAR:
      case Op::LINEARS:
        for (int k = 0; k < 3; k++) {
          if (s.out[k] < 0) continue;
          // a buffer may be wider than what is written to it: others use it too
          check_product(s, matrix(2 * k), k == 0 ? s.width : std::min(matrix(2 * k).rows, widths[s.out[k]]));
          row(2 * k + 1, matrix(2 * k).rows);
        }
        break;
      case Op::HEAD_LINEAR: check_product(s, matrix(0), s.width); break;
      case Op::GLU_LINEAR:
        for (int p = 0; p < 4; p += 2) {
          check_product(s, matrix(p), s.width);
          row(p + 1, s.width);
        }
        break;
      case Op::WRITE_KV: {
        need(s.i[0] >= 0 && s.i[0] < (int)caches.size(), "a cache is missing");
        const CacheShape& c = caches[s.i[0]];
        need((int64_t)c.kv_heads * c.key_dim == s.input_width, "keys do not fit their cache");
        need(s.in[1] < 0 || (int64_t)c.kv_heads * c.value_dim <= widths[s.in[1]], "values do not fit their cache");
        break;
      }
      case Op::CONVOLVE:
        need(s.i[0] >= 0 && s.i[0] < (int)fixed.size() && s.i[1] >= 1, "a fixed state is missing");
        need(s.input_width == s.width && (int64_t)(s.i[1] - 1) * s.width == fixed[s.i[0]], "rows do not fit their fixed state");
        need(s.param[0] >= 0, "a convolution has no taps");
        row(0, (size_t)s.i[1] * s.width);
        row(1, s.width);
        break;
      case Op::RECUR: {
        need(s.i[0] >= 0 && s.i[0] < (int)fixed.size(), "a fixed state is missing");
        int64_t heads = s.i[1], key_heads = s.i[2], key_dim = s.i[3], value_dim = s.i[4];
        need(divides(s.i[2], s.i[1]) && key_dim >= 1 && value_dim >= 1, "key heads do not share out the value heads");
        need(heads * key_dim * value_dim == fixed[s.i[0]], "a recurrence does not fit its fixed state");
        need(key_heads * key_dim == s.input_width && heads * value_dim == s.width, "a recurrence does not fit its rows");
        auto wide = [&](int k, int64_t width) { return s.in[k] >= 0 && width <= widths[s.in[k]]; };
        need(wide(1, s.input_width) && wide(2, s.width) && wide(3, s.i[6] ? heads * key_dim : heads) &&
                 (s.in[4] < 0 || wide(4, heads)),
             "a recurrence does not fit its rows");
        break;
      }
      case Op::ATTEND: {
        need(s.i[0] >= 0 && s.i[0] < (int)caches.size(), "a cache is missing");
        const CacheShape& c = caches[s.i[0]];
        need(divides(c.kv_heads, s.i[1]), "key-value heads do not share out the query heads");
        need((int64_t)s.i[1] * c.key_dim == s.input_width && (int64_t)s.i[1] * c.value_dim == s.width,
             "queries do not fit their cache");
        need(s.i[2] == 0 || s.i[3] >= 1, "a window is empty");
        row(0, s.i[1]);
        break;
      }
      case Op::ROUTE:
        check_route(s);
        for (int p = 0; p < 2; p++) row(p, s.input_width);
        routes[s.out[0]] = {s.i[0], s.input_width};
        break;
      case Op::EXPERTS: {
        const Matrix &gate = matrix(0), &up = matrix(2), &down = matrix(4);
        need(gate.count == up.count && gate.count == down.count, "there are not as many gates as experts");
        need(gate.columns == s.input_width && up.columns == s.input_width && down.rows == s.width &&
                 gate.rows == up.rows && gate.rows == down.columns,
             "an expert does not fit its rows");
        need(routes[s.in[1]] == std::pair(s.i[0], s.i[4]) && s.i[4] >= gate.count, "a router and its experts differ in number");
        need(s.i[4] == gate.count || s.input_width == s.width, "a row cannot be handed on as one of another width");
        for (int p = 0; p < 6; p += 2) row(p + 1, (size_t)gate.count * matrix(p).rows);
        break;
      }
      default: break;
    }
  }
}

}  // namespace trilens
