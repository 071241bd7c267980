#include "engine_parts.h"

#include <cmath>
#include <cstring>

namespace trilens {

// What is done row by row.

Quantised Engine::quantised_out(const Instruction& s, int output, int width) {
  size_t i = &s - program_.data();
  if (!(quantise_out_[i] >> output & 1)) return {};
  return quantised_[s.out[output]]->rows(width, fine_out_[i] >> output & 1);
}

// Rows first..end of output `which` are written: round them to 8 bits if a quantised matrix reads them.
void Engine::rows_done(const Instruction& s, int which, int width, int first, int end) {
  Quantised to = quantised_out(s, which, width);
  if (!to.groups) return;
  for (int r = first; r < end; r++) k_.quantise(buffer(s.out[which], r, width), width, r, to, 0);
}

Activations Engine::activations(const Instruction& s) const {
  const float* f = buffers_[s.in[0]].data();
  if (!quantised_[s.in[0]]) return {f, (size_t)s.input_width};
  return quantised_[s.in[0]]->activations(f, s.input_width, fine_in_[&s - program_.data()]);
}

// A gate's number for each part of a row.
static void gate_parts(const Kernels& k, const float* gate, int parts, Curve curve, const float* up, float* y, int part) {
  float factors[32];
  for (int first = 0; first < parts; first += 32) {
    int some = std::min(32, parts - first);
    k.activate(gate + first, factors, some, curve);
    for (int p = 0; p < some; p++) k.scale(up + (first + p) * part, factors[p], y + (first + p) * part, part);
  }
}

void Engine::row_task(const Instruction& s, const Numbers& n, int first, int end) {
  for (int r = first; r < end; r++) {
    float* y = buffer(s.out[0], r, s.width);
    const float* x = s.in[0] < 0 ? nullptr : buffer(s.in[0], r, s.input_width);
    const float* other = s.op == Op::ADD || s.op == Op::GLU ? buffer(s.in[1], r, s.width) : nullptr;
    switch (s.op) {
      case Op::EMBED: {
        const Matrix& table = parameters_[s.param[0]].matrix;
        int at = s.i[0] ? tokens_[r].position : tokens_[r].id;
        unpack_row(table, 0, at < table.rows ? at : 0, y);  // a second table may have no row for the last tokens
        break;
      }
      case Op::GIVEN: memcpy(y, tokens_[r].row, s.width * sizeof(float)); break;
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
      case Op::CLIP: k_.clip(x, n.f[0], n.f[1], y, s.width); break;
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
        int parts = (int)factors.size(), part = s.width / parts;  // a factor for each part
        if (part == 1) k_.multiply(x, factors.data(), y, s.width);
        else
          for (int p = 0; p < parts; p++) k_.scale(x + p * part, factors[p], y + p * part, part);
        break;
      }
      case Op::SCALE: k_.scale(x, n.f[0], y, s.width); break;
      case Op::SOFTCAP: k_.softcap(x, n.f[0], y, s.width); break;
      case Op::GLU:
        if (s.input_width == s.width) k_.glu(x, other, y, s.width, {(Curve)s.i[0], n.f[0], n.f[1], n.f[2], n.f[3]});
        else gate_parts(k_, x, s.input_width, (Curve)s.i[0], other, y, s.width / s.input_width);
        break;
      case Op::ABOVE: k_.above(x, n.f[0], y, s.width); break;
      case Op::RESIZED: {
        int parts = s.i[0], part = s.width / parts;
        float size = std::sqrt(k_.mean_square(buffer(s.in[1], r, part), part));
        for (int p = 0; p < parts; p++) {
          float own = std::sqrt(std::max(k_.mean_square(x + p * part, part), n.f[0]));
          k_.scale(x + p * part, size / own, y + p * part, part);
        }
        break;
      }
      case Op::MIX: {
        int parts = s.i[0], part = s.input_width / parts, made = s.width / part;
        const float* weights = buffer(s.in[1], r, made * parts);
        for (int i = 0; i < made; i++, weights += parts, y += part) {
          k_.scale(x, weights[0], y, part);
          for (int p = 1; p < parts; p++) k_.fused_add(x + p * part, weights[p], y, part);
        }
        break;
      }
      case Op::ACTIVATE: k_.activate(x, y, s.width, (Curve)s.i[0]); break;
      case Op::EXPERTS: {  // the chosen experts' results, in order of rank
        int chosen = s.i[0], experts = parameters_[s.param[0]].matrix.count;
        const int32_t* ids = (const int32_t*)buffer(s.in[1], r, chosen);
        const float* weights = buffer(s.in[2], r, chosen);
        memset(y, 0, s.width * sizeof(float));
        for (int rank = 0; rank < chosen; rank++) {
          bool computed = ids[rank] < experts;  // else the row is handed on
          const float* from = computed ? slots_->results.data() + (size_t)slots_->slot_of[r * chosen + rank] * s.width : x;
          k_.fused_add(from, computed && s.i[1] ? 1.0f : weights[rank], y, s.width);
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
  std::vector<float> scratch((size_t)5 * s.input_width);
  for (int r = first; r < end; r++)
    k_.route(buffer(s.in[0], r, s.input_width), scratch.data(), (int32_t*)buffer(s.out[0], r, s.width),
             buffer(s.out[1], r, s.width), rule);
}

}  // namespace trilens
