#include "quantise.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "half.h"

namespace trilens {
namespace {

constexpr int SUPER = 256;

int nearest(float v) { return (int)std::lrint(v); }

int within(int v, int low, int high) { return std::min(std::max(v, low), high); }

void put_half(uint8_t* at, float v) {
  uint16_t h = float_to_f16(v);
  memcpy(at, &h, 2);
}

float get_half(const uint8_t* at) {
  uint16_t h;
  memcpy(&h, at, 2);
  return f16_to_float(h);
}

// The scale s that makes sum of w * (x - s * q)^2 least, for whole q from -most to most - 1, over several ways to
// round. Large values count more: w = x^2.
float fit_scale(const float* x, int n, int most) {
  float peak = 0;  // the largest by size, with its sign: it gets the code -most, which has no counterpart
  for (int i = 0; i < n; i++)
    if (std::fabs(x[i]) > std::fabs(peak)) peak = x[i];
  if (std::fabs(peak) < 1e-15f) return 0;
  float best = -1, scale = 0;
  for (int step = -9; step <= 9; step++) {
    float inverse = -(most + 0.1f * step) / peak;
    float xq = 0, qq = 0;
    for (int i = 0; i < n; i++) {
      float q = (float)within(nearest(inverse * x[i]), -most, most - 1), w = x[i] * x[i];
      xq += w * x[i] * q;
      qq += w * q * q;
    }
    if (qq > 0 && xq * xq > best * qq) best = xq * xq / qq, scale = xq / qq;
  }
  return scale;
}

// The same for few codes, where one value's code moves the scale: codes change one after the other while that helps.
float settle_scale(const float* x, int n, int most) {
  float peak = 0, codes[16], xq = 0, qq = 0;
  for (int i = 0; i < n; i++)
    if (std::fabs(x[i]) > std::fabs(peak)) peak = x[i];
  if (std::fabs(peak) < 1e-15f) return 0;
  for (int i = 0; i < n; i++) {
    codes[i] = (float)within(nearest(-most / peak * x[i]), -most, most - 1);
    xq += x[i] * x[i] * x[i] * codes[i];
    qq += x[i] * x[i] * codes[i] * codes[i];
  }
  bool moved = true;
  for (int round = 0; moved && round < 5; round++) {
    moved = false;
    for (int i = 0; i < n; i++) {
      float w = x[i] * x[i], q = codes[i], rest_xq = xq - w * x[i] * q, rest_qq = qq - w * q * q;
      if (!(rest_xq > 0 && rest_qq > 0)) continue;
      float code = (float)within(nearest(x[i] * rest_qq / rest_xq), -most, most - 1);
      float new_xq = rest_xq + w * x[i] * code, new_qq = rest_qq + w * code * code;
      if (code == q || !(new_xq * new_xq * qq > xq * xq * new_qq)) continue;
      codes[i] = code, xq = new_xq, qq = new_qq;
      moved = true;
    }
  }
  return qq > 0 ? xq / qq : 0;
}

struct Line {
  float scale, low;  // values are scale * q - low, q from 0
};

// The line whose weighted error is least, over several ways to round; `low` is never negative. `absolute`: the error is
// the sum of absolute differences, not of squares.
Line fit_line(const float* x, const float* w, int n, int top, float first, int steps, bool absolute) {
  float low = x[0], high = x[0], sum_w = 0, sum_x = 0;
  for (int i = 0; i < n; i++) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
    sum_w += w[i];
    sum_x += w[i] * x[i];
  }
  low = std::min(low, 0.0f);
  if (high <= low) return {0, -low};
  auto error = [&](float scale, float base, float inverse, float start) {
    float sum = 0;
    for (int i = 0; i < n; i++) {
      int q = within(nearest(inverse * (x[i] - start)), 0, top);
      float d = scale * q + base - x[i];
      sum += w[i] * (absolute ? std::fabs(d) : d * d);
    }
    return sum;
  };
  float inverse = top / (high - low);
  Line best{1 / inverse, -low};
  float least = error(1 / inverse, low, inverse, low), start = low;
  for (int step = 0; step <= steps; step++) {
    inverse = (first + 0.1f * step + top) / (high - low);
    float q1 = 0, q2 = 0, xq = 0;
    for (int i = 0; i < n; i++) {
      float q = (float)within(nearest(inverse * (x[i] - start)), 0, top);
      q1 += w[i] * q;
      q2 += w[i] * q * q;
      xq += w[i] * q * x[i];
    }
    float det = sum_w * q2 - q1 * q1;
    if (!(det > 0)) continue;
    float scale = (sum_w * xq - sum_x * q1) / det, base = (q2 * sum_x - q1 * xq) / det;
    if (base > 0) base = 0, scale = xq / q2;
    float got = error(scale, base, inverse, start);
    if (got < least) {
      least = got;
      best = {scale, -base};
      start = base;
    }
  }
  return best;
}

struct Lines {
  int scales[16], lows[16];
  float d, low_d;  // as they are stored
};

// Scales and lows of all parts of a super-block, as whole numbers up to `top` times two halves.
Lines share(const Line* lines, int parts, int top, uint8_t* d, uint8_t* low_d) {
  float scale = 0, low = 0;
  for (int i = 0; i < parts; i++) scale = std::max(scale, lines[i].scale), low = std::max(low, lines[i].low);
  Lines out{};
  float inverse = scale > 0 ? top / scale : 0, inverse_low = low > 0 ? top / low : 0;
  for (int i = 0; i < parts; i++) {
    out.scales[i] = within(nearest(inverse * lines[i].scale), 0, top);
    out.lows[i] = within(nearest(inverse_low * lines[i].low), 0, top);
  }
  put_half(d, scale / top);
  put_half(low_d, low / top);
  out.d = get_half(d);
  out.low_d = get_half(low_d);
  return out;
}

// Codes of a super-block of `parts` parts, once its lines are as they are stored.
void code_lines(const float* x, const Lines& lines, int parts, int top, uint8_t* codes) {
  int n = SUPER / parts;
  for (int p = 0; p < parts; p++) {
    float d = lines.d * lines.scales[p], low = lines.low_d * lines.lows[p];
    for (int i = p * n; i < (p + 1) * n; i++) codes[i] = d == 0 ? 0 : (uint8_t)within(nearest((x[i] + low) / d), 0, top);
  }
}

// The eight pairs of 6-bit numbers of Q4_K and Q5_K in 12 bytes.
void put_pairs(const Lines& lines, uint8_t* out) {
  memset(out, 0, 12);
  for (int j = 0; j < 8; j++) {
    int s = lines.scales[j], m = lines.lows[j];
    if (j < 4) {
      out[j] |= s;
      out[j + 4] |= m;
    } else {
      out[j + 4] |= (s & 15) | (m & 15) << 4;
      out[j - 4] |= (s >> 4) << 6;
      out[j] |= (m >> 4) << 6;
    }
  }
}

Lines lines_of_eight(const float* x, int top, float first, int steps, uint8_t* header) {
  Line lines[8];
  for (int p = 0; p < 8; p++) {
    const float* part = x + 32 * p;
    float w[32], squares = 0;
    for (int i = 0; i < 32; i++) squares += part[i] * part[i];
    float mean = std::sqrt(squares / 32);
    for (int i = 0; i < 32; i++) w[i] = mean + std::fabs(part[i]);
    lines[p] = fit_line(part, w, 32, top, first, steps, false);
  }
  Lines shared = share(lines, 8, 63, header, header + 2);
  put_pairs(shared, header + 4);
  return shared;
}

void q4_k(const float* x, uint8_t* out) {
  uint8_t codes[SUPER];
  code_lines(x, lines_of_eight(x, 15, -1.0f, 20, out), 8, 15, codes);
  for (int j = 0; j < SUPER; j += 64)
    for (int l = 0; l < 32; l++) out[16 + j / 2 + l] = codes[j + l] | codes[j + l + 32] << 4;
}

void q5_k(const float* x, uint8_t* out) {
  uint8_t codes[SUPER];
  code_lines(x, lines_of_eight(x, 31, -0.5f, 15, out), 8, 31, codes);
  uint8_t *high = out + 16, *low = out + 48;
  memset(high, 0, 32);
  for (int j = 0; j < SUPER; j += 64)
    for (int l = 0; l < 32; l++) {
      int a = codes[j + l], b = codes[j + l + 32], bit = j / 32;
      high[l] |= (a >> 4) << bit | (b >> 4) << (bit + 1);
      low[j / 2 + l] = (a & 15) | (b & 15) << 4;
    }
}

// Four 2-bit codes a byte, 32 values apart, as Q2_K and Q3_K have them.
void put_quarters(const uint8_t* codes, uint8_t* out) {
  for (int j = 0; j < SUPER; j += 128)
    for (int l = 0; l < 32; l++) {
      const uint8_t* c = codes + j + l;
      out[j / 4 + l] = (c[0] & 3) | (c[32] & 3) << 2 | (c[64] & 3) << 4 | (c[96] & 3) << 6;
    }
}

void q2_k(const float* x, uint8_t* out) {
  Line lines[16];
  for (int p = 0; p < 16; p++) {
    float w[16];
    for (int i = 0; i < 16; i++) w[i] = std::fabs(x[16 * p + i]);
    lines[p] = fit_line(x + 16 * p, w, 16, 3, -0.5f, 15, true);
  }
  Lines shared = share(lines, 16, 15, out + 80, out + 82);
  for (int p = 0; p < 16; p++) out[p] = shared.scales[p] | shared.lows[p] << 4;
  uint8_t codes[SUPER];
  code_lines(x, shared, 16, 3, codes);
  put_quarters(codes, out + 16);
}

// Signed scales of 16 parts, as whole numbers times the half at `d`, -top being the largest one's.
void signed_scales(const float* x, int most, int top, float (*fit)(const float*, int, int), int* scales, uint8_t* d) {
  float fitted[16], peak = 0;
  for (int p = 0; p < 16; p++) {
    fitted[p] = fit(x + 16 * p, 16, most);
    if (std::fabs(fitted[p]) > std::fabs(peak)) peak = fitted[p];
  }
  float inverse = peak == 0 ? 0 : -top / peak;
  for (int p = 0; p < 16; p++) scales[p] = within(nearest(inverse * fitted[p]), -top, top - 1);
  put_half(d, peak == 0 ? 0 : 1 / inverse);
}

// Codes from 0, `most` standing for nothing.
void code_scales(const float* x, const int* scales, float d, int most, uint8_t* codes) {
  for (int i = 0; i < SUPER; i++) {
    float scale = d * scales[i / 16];
    codes[i] = scale == 0 ? most : within(nearest(x[i] / scale), -most, most - 1) + most;
  }
}

void q3_k(const float* x, uint8_t* out) {
  int scales[16];
  signed_scales(x, 4, 32, settle_scale, scales, out + 108);
  uint8_t codes[SUPER], *packed = out + 96;
  code_scales(x, scales, get_half(out + 108), 4, codes);
  memset(packed, 0, 12);
  for (int p = 0; p < 16; p++) {
    int s = scales[p] + 32;
    packed[p % 8] |= (s & 15) << (p < 8 ? 0 : 4);
    packed[8 + p % 4] |= (s >> 4) << (2 * (p / 4));
  }
  memset(out, 0, 32);
  for (int i = 0; i < SUPER; i++) out[i % 32] |= (codes[i] >> 2) << (i / 32);
  put_quarters(codes, out + 32);
}

void q6_k(const float* x, uint8_t* out) {
  int scales[16];
  signed_scales(x, 32, 128, fit_scale, scales, out + 208);
  uint8_t codes[SUPER];
  code_scales(x, scales, get_half(out + 208), 32, codes);
  for (int p = 0; p < 16; p++) out[192 + p] = (uint8_t)(int8_t)scales[p];
  for (int j = 0; j < 2; j++)
    for (int l = 0; l < 32; l++) {
      const uint8_t* c = codes + 128 * j + l;
      out[64 * j + l] = (c[0] & 15) | (c[64] & 15) << 4;
      out[64 * j + 32 + l] = (c[32] & 15) | (c[96] & 15) << 4;
      out[128 + 32 * j + l] = c[0] >> 4 | (c[32] >> 4) << 2 | (c[64] >> 4) << 4 | (c[96] >> 4) << 6;
    }
}

struct Written {
  const char* name;
  BlockSize block;
  void (*encode)(const float*, uint8_t*);
};

constexpr Written WRITTEN[] = {
    {"Q2_K", {256, 84}, q2_k},  {"Q3_K", {256, 110}, q3_k}, {"Q4_K", {256, 144}, q4_k},
    {"Q5_K", {256, 176}, q5_k}, {"Q6_K", {256, 210}, q6_k},
};

const Written* written(const std::string& type) {
  for (const Written& w : WRITTEN)
    if (type == w.name) return &w;
  return nullptr;
}

}  // namespace

BlockSize encoded_block(const std::string& type) {
  const Written* w = written(type);
  return w == nullptr ? BlockSize{0, 0} : w->block;
}

bool encode(const std::string& type, const float* x, size_t count, uint8_t* out) {
  const Written* w = written(type);
  for (size_t i = 0; i < count; i++)
    if (!std::isfinite(x[i])) return false;
  for (size_t i = 0; i < count; i += w->block.values, out += w->block.bytes) w->encode(x + i, out);
  return true;
}

}  // namespace trilens
