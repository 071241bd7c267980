// Eight lanes at a time in plain C++, the same names and the same bits as `lanes_avx2.h`: the same order of every sum,
// one rounding where the other fuses, halves to even.
// Included inside a namespace of its own, so that the two never meet.

struct F8 { float v[8]; };
struct I8 { int32_t v[8]; };
struct W16 { int16_t v[16]; };
struct B32 { uint8_t v[32]; };

#define TRILENS_EACH(n, expression) for (int i = 0; i < n; i++) r.v[i] = expression; return r

constexpr int TILE_ROWS = 2;  // rows of activations whose sums fit the registers beside the codes of a tile

static inline F8 zero() { return {}; }
static inline F8 all(float x) { F8 r; TRILENS_EACH(8, x); }
static inline F8 all_at(const float* p) { return all(*p); }
static inline F8 load(const float* p) { F8 r; TRILENS_EACH(8, p[i]); }
static inline void store(float* p, F8 a) { for (int i = 0; i < 8; i++) p[i] = a.v[i]; }
static inline F8 add(F8 a, F8 b) { F8 r; TRILENS_EACH(8, a.v[i] + b.v[i]); }
static inline F8 sub(F8 a, F8 b) { F8 r; TRILENS_EACH(8, a.v[i] - b.v[i]); }
static inline F8 mul(F8 a, F8 b) { F8 r; TRILENS_EACH(8, a.v[i] * b.v[i]); }
static inline F8 div(F8 a, F8 b) { F8 r; TRILENS_EACH(8, a.v[i] / b.v[i]); }
static inline F8 fma(F8 a, F8 b, F8 c) { F8 r; TRILENS_EACH(8, std::fma(a.v[i], b.v[i], c.v[i])); }
static inline F8 minus_fma(F8 a, F8 b, F8 c) { F8 r; TRILENS_EACH(8, std::fma(-a.v[i], b.v[i], c.v[i])); }
static inline F8 larger(F8 a, F8 b) { F8 r; TRILENS_EACH(8, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
static inline F8 smaller(F8 a, F8 b) { F8 r; TRILENS_EACH(8, a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
static inline F8 magnitude(F8 a) { F8 r; TRILENS_EACH(8, std::fabs(a.v[i])); }
static inline F8 nearest(F8 a) { F8 r; TRILENS_EACH(8, std::nearbyint(a.v[i])); }
static inline F8 if_less(F8 a, F8 b, F8 yes, F8 no) { F8 r; TRILENS_EACH(8, a.v[i] < b.v[i] ? yes.v[i] : no.v[i]); }
static inline F8 power_of_two(F8 n) { F8 r; TRILENS_EACH(8, std::bit_cast<float>((uint32_t)((int32_t)n.v[i] + 127) << 23)); }
static inline float sum(F8 a) {
  return ((a.v[0] + a.v[1]) + (a.v[2] + a.v[3])) + ((a.v[4] + a.v[5]) + (a.v[6] + a.v[7]));
}
static inline float largest(F8 a) {
  float best = a.v[0];
  for (int i = 1; i < 8; i++) best = a.v[i] > best ? a.v[i] : best;
  return best;
}

static inline F8 load_f16(const uint16_t* p) { F8 r; TRILENS_EACH(8, f16_to_float(p[i])); }
static inline void store_f16(uint16_t* p, F8 a) { for (int i = 0; i < 8; i++) p[i] = float_to_f16(a.v[i]); }
static inline F8 load_bf16(const uint16_t* p) { F8 r; TRILENS_EACH(8, bf16_to_float(p[i])); }
static inline F8 load_i8(const int8_t* p) { F8 r; TRILENS_EACH(8, (float)p[i]); }
static inline F8 load_u8(const uint8_t* p) { F8 r; TRILENS_EACH(8, (float)p[i]); }
static inline F8 load_e4m3(const uint8_t* p) { F8 r; TRILENS_EACH(8, e4m3_to_float(p[i])); }
static inline void store_i8(int8_t* p, F8 a) { for (int i = 0; i < 8; i++) p[i] = (int8_t)(int)a.v[i]; }

static inline F8 to_float(I8 a) { F8 r; TRILENS_EACH(8, (float)a.v[i]); }
static inline I8 zero_i() { return {}; }
static inline I8 all_i(int32_t x) { I8 r; TRILENS_EACH(8, x); }
static inline I8 add(I8 a, I8 b) { I8 r; TRILENS_EACH(8, a.v[i] + b.v[i]); }
static inline I8 sub(I8 a, I8 b) { I8 r; TRILENS_EACH(8, a.v[i] - b.v[i]); }

static inline W16 all_w(int16_t x) { W16 r; TRILENS_EACH(16, x); }
static inline W16 pair_w(int32_t two) { W16 r; TRILENS_EACH(16, (int16_t)(i % 2 ? two >> 16 : two)); }
static inline W16 add(W16 a, W16 b) { W16 r; TRILENS_EACH(16, (int16_t)(a.v[i] + b.v[i])); }
static inline W16 mul(W16 a, W16 b) { W16 r; TRILENS_EACH(16, (int16_t)(a.v[i] * b.v[i])); }
static inline I8 dot(W16 a, W16 b) { I8 r; TRILENS_EACH(8, a.v[2 * i] * b.v[2 * i] + a.v[2 * i + 1] * b.v[2 * i + 1]); }
static inline W16 widen_i8(const uint8_t* p) { W16 r; TRILENS_EACH(16, (int8_t)p[i]); }
static inline W16 widen_u8(const uint8_t* p) { W16 r; TRILENS_EACH(16, p[i]); }
static inline W16 evens_twice(W16 a) { W16 r; TRILENS_EACH(16, a.v[i / 2 * 2]); }
static inline W16 odds_twice(W16 a) { W16 r; TRILENS_EACH(16, a.v[i / 2 * 2 + 1]); }

static inline B32 load_b(const uint8_t* p) { B32 r; TRILENS_EACH(32, p[i]); }
static inline B32 four_b(const int8_t* p) { B32 r; TRILENS_EACH(32, (uint8_t)p[i % 4]); }
static inline B32 low_nibbles(B32 a) { B32 r; TRILENS_EACH(32, a.v[i] & 15); }
static inline B32 high_nibbles(B32 a) { B32 r; TRILENS_EACH(32, a.v[i] >> 4); }
template <int field> static inline B32 two_bits_high(B32 a) { B32 r; TRILENS_EACH(32, (uint8_t)((a.v[i] >> (2 * field) & 3) << 4)); }
static inline B32 either(B32 a, B32 b) { B32 r; TRILENS_EACH(32, a.v[i] | b.v[i]); }
static inline B32 look_up(const int8_t table[16], B32 a) { B32 r; TRILENS_EACH(32, (uint8_t)table[a.v[i]]); }
// For octets.h: entries of a table of eights or of fours, one after the other.
static inline B32 eights_at(const uint8_t* table, const uint16_t* index) { B32 r; TRILENS_EACH(32, table[index[i / 8] * 8 + i % 8]); }
static inline B32 fours_at(const uint8_t* table, const uint16_t* index) { B32 r; TRILENS_EACH(32, table[index[i / 4] * 4 + i % 4]); }
static inline B32 bits_as_bytes(const uint8_t* p) { B32 r; TRILENS_EACH(32, p[i / 8] >> (i % 8) & 1 ? 0xff : 0); }
template <Type type> static inline void read_group(const uint8_t* at, Octets& out) { read_octets<type>(at, out); }
static inline B32 negative_where(B32 a, B32 mask) { B32 r; TRILENS_EACH(32, (uint8_t)(mask.v[i] ? -a.v[i] : a.v[i])); }
static inline B32 two_less_where(B32 a, B32 mask) { B32 r; TRILENS_EACH(32, (uint8_t)(mask.v[i] ? a.v[i] - 2 : a.v[i])); }
static inline B32 byte_b(int8_t x) { B32 r; TRILENS_EACH(32, (uint8_t)x); }
static inline B32 eight_b(const int8_t* p) { B32 r; TRILENS_EACH(32, (uint8_t)p[i % 8]); }  // 8 bytes, four times
static inline W16 first_twice(W16 a) { W16 r; TRILENS_EACH(16, a.v[i / 8 * 8 + i % 8 / 4 * 2 + i % 2]); }      // rows 0 0 1 1 4 4 5 5
static inline W16 last_twice(W16 a) { W16 r; TRILENS_EACH(16, a.v[i / 8 * 8 + 4 + i % 8 / 4 * 2 + i % 2]); }   // rows 2 2 3 3 6 6 7 7
static inline I8 sums_of_two(I8 a, I8 b) {
  I8 r;
  TRILENS_EACH(8, i % 4 < 2 ? a.v[i / 4 * 4 + i % 2 * 2] + a.v[i / 4 * 4 + i % 2 * 2 + 1] : b.v[i / 4 * 4 + i % 2 * 2] + b.v[i / 4 * 4 + i % 2 * 2 + 1]);
}
// Byte j of each four is an E4M3 number; its value times 2^-120, for the exponent is put where a float has its own.
template <int j> static inline F8 e4m3_column(B32 a) {
  F8 r;
  TRILENS_EACH(8, std::bit_cast<float>((uint32_t)(a.v[4 * i + j] & 128) << 24 | (uint32_t)(a.v[4 * i + j] & 127) << 20));
}
static inline void e4m3_columns(B32 a, F8 columns[4]) {
  columns[0] = e4m3_column<0>(a);
  columns[1] = e4m3_column<1>(a);
  columns[2] = e4m3_column<2>(a);
  columns[3] = e4m3_column<3>(a);
}
static inline B32 magnitude(B32 a) { B32 r; TRILENS_EACH(32, (uint8_t)((int8_t)a.v[i] < 0 ? -(int8_t)a.v[i] : a.v[i])); }
static inline B32 with_sign(B32 a, B32 sign) {
  B32 r;
  TRILENS_EACH(32, (uint8_t)((int8_t)sign.v[i] < 0 ? -(int8_t)a.v[i] : sign.v[i] == 0 ? 0 : a.v[i]));
}
// The other one saturates at 16 bits; no layout's codes get there (layout.h says why), so this one need not.
static inline W16 dot_unsigned(B32 a, B32 b) {
  W16 r;
  TRILENS_EACH(16, (int16_t)(a.v[2 * i] * (int8_t)b.v[2 * i] + a.v[2 * i + 1] * (int8_t)b.v[2 * i + 1]));
}

static inline void prefetch_line(const void*) {}

#undef TRILENS_EACH
