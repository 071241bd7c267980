// Eight lanes at a time as two vectors of ARM's NEON, and what `dots_of_fours.inl` asks for, with its dot products of
// bytes. The same names and the same bits as `lanes_portable.h`. Included inside a namespace of its own.

struct F8 { float32x4_t a, b; };  // 8 floats
struct I8 { int32x4_t a, b; };    // 8 32-bit integers
struct W16 { int16x8_t a, b; };   // 16 16-bit integers
struct B32 { int8x16_t a, b; };   // 32 bytes

constexpr int TILE_ROWS = 4;  // rows of activations whose sums fit the registers beside the codes of a tile

static inline F8 all(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
static inline F8 zero() { return all(0); }
static inline F8 all_at(const float* p) { return {vld1q_dup_f32(p), vld1q_dup_f32(p)}; }
static inline F8 load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
static inline void store(float* p, F8 x) {
  vst1q_f32(p, x.a);
  vst1q_f32(p + 4, x.b);
}
static inline F8 add(F8 x, F8 y) { return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b)}; }
static inline F8 sub(F8 x, F8 y) { return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b)}; }
static inline F8 mul(F8 x, F8 y) { return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b)}; }
static inline F8 div(F8 x, F8 y) { return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b)}; }
static inline F8 fma(F8 x, F8 y, F8 z) { return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b)}; }
static inline F8 minus_fma(F8 x, F8 y, F8 z) { return {vfmsq_f32(z.a, x.a, y.a), vfmsq_f32(z.b, x.b, y.b)}; }  // z - x * y
static inline F8 if_less(F8 x, F8 y, F8 yes, F8 no) {
  return {vbslq_f32(vcltq_f32(x.a, y.a), yes.a, no.a), vbslq_f32(vcltq_f32(x.b, y.b), yes.b, no.b)};
}
// Not NEON's maximum and minimum: where a lane is not a number, those give that, and the others the second.
static inline F8 larger(F8 x, F8 y) { return if_less(y, x, x, y); }
static inline F8 smaller(F8 x, F8 y) { return if_less(x, y, x, y); }
static inline F8 magnitude(F8 x) { return {vabsq_f32(x.a), vabsq_f32(x.b)}; }
static inline F8 nearest(F8 x) { return {vrndnq_f32(x.a), vrndnq_f32(x.b)}; }
static inline float32x4_t power_of_two(float32x4_t n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23));
}
static inline F8 power_of_two(F8 n) { return {power_of_two(n.a), power_of_two(n.b)}; }  // n whole, -126..127
static inline float sum(F8 x) {  // ((0+1)+(2+3)) + ((4+5)+(6+7))
  float32x4_t pairs = vpaddq_f32(x.a, x.b), fours = vpaddq_f32(pairs, pairs);
  return vgetq_lane_f32(fours, 0) + vgetq_lane_f32(fours, 1);
}
static inline float largest(F8 x) {
  float32x4_t m = vbslq_f32(vcgtq_f32(x.b, x.a), x.b, x.a);
  float best = vgetq_lane_f32(m, 0), others[4];
  vst1q_f32(others, m);
  for (int i = 1; i < 4; i++) best = others[i] > best ? others[i] : best;
  return best;
}

static inline F8 to_float(int16x8_t x) {
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(x))), vcvtq_f32_s32(vmovl_high_s16(x))};
}
static inline F8 load_f16(const uint16_t* p) {
  float16x8_t h = vreinterpretq_f16_u16(vld1q_u16(p));
  return {vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h)};
}
static inline void store_f16(uint16_t* p, F8 x) {
  vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(x.a), x.b)));
}
static inline F8 load_bf16(const uint16_t* p) {
  uint16x8_t h = vld1q_u16(p);
  return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(h, 16))};
}
static inline F8 load_i8(const int8_t* p) { return to_float(vmovl_s8(vld1_s8(p))); }
static inline F8 load_u8(const uint8_t* p) { return to_float(vreinterpretq_s16_u16(vmovl_u8(vld1_u8(p)))); }
static inline F8 load_e4m3(const uint8_t* p) {  // without a sign
  uint16x8_t h = vmovl_u8(vld1_u8(p));
  float32x4_t a = vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vget_low_u16(h)), 20));
  float32x4_t b = vreinterpretq_f32_u32(vshlq_n_u32(vmovl_high_u16(h), 20));
  return {vmulq_n_f32(a, 0x1p120f), vmulq_n_f32(b, 0x1p120f)};
}
static inline void store_i8(int8_t* p, F8 x) {  // whole numbers -127..127
  vst1_s8(p, vqmovn_s16(vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(x.a)), vcvtnq_s32_f32(x.b))));
}

static inline F8 to_float(I8 x) { return {vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b)}; }
static inline I8 all_i(int32_t x) { return {vdupq_n_s32(x), vdupq_n_s32(x)}; }
static inline I8 zero_i() { return all_i(0); }
static inline I8 add(I8 x, I8 y) { return {vaddq_s32(x.a, y.a), vaddq_s32(x.b, y.b)}; }
static inline I8 sub(I8 x, I8 y) { return {vsubq_s32(x.a, y.a), vsubq_s32(x.b, y.b)}; }
static inline I8 mul(I8 x, I8 y) { return {vmulq_s32(x.a, y.a), vmulq_s32(x.b, y.b)}; }

static inline W16 all_w(int16_t x) { return {vdupq_n_s16(x), vdupq_n_s16(x)}; }
static inline W16 pair_w(int32_t two) {  // two 16-bit numbers, eight times
  int16x8_t pairs = vreinterpretq_s16_s32(vdupq_n_s32(two));
  return {pairs, pairs};
}
static inline W16 mul(W16 x, W16 y) { return {vmulq_s16(x.a, y.a), vmulq_s16(x.b, y.b)}; }
static inline int32x4_t dot(int16x8_t x, int16x8_t y) {
  return vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
}
static inline I8 dot(W16 x, W16 y) { return {dot(x.a, y.a), dot(x.b, y.b)}; }
static inline W16 widen_i8(const uint8_t* p) {
  int8x16_t x = vld1q_s8((const int8_t*)p);
  return {vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x)};
}
static inline W16 widen_u8(const uint8_t* p) {
  uint8x16_t x = vld1q_u8(p);
  return {vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x))), vreinterpretq_s16_u16(vmovl_high_u8(x))};
}
static inline W16 evens_twice(W16 x) { return {vtrn1q_s16(x.a, x.a), vtrn1q_s16(x.b, x.b)}; }  // 0 0 2 2 4 4 ...
static inline W16 odds_twice(W16 x) { return {vtrn2q_s16(x.a, x.a), vtrn2q_s16(x.b, x.b)}; }   // 1 1 3 3 5 5 ...

static inline B32 load_b(const uint8_t* p) { return {vld1q_s8((const int8_t*)p), vld1q_s8((const int8_t*)p + 16)}; }
static inline B32 four_b(const int8_t* p) {  // 4 bytes, eight times
  int32_t four;
  memcpy(&four, p, 4);
  int8x16_t fours = vreinterpretq_s8_s32(vdupq_n_s32(four));
  return {fours, fours};
}
static inline B32 low_nibbles(B32 x) { return {vandq_s8(x.a, vdupq_n_s8(15)), vandq_s8(x.b, vdupq_n_s8(15))}; }
static inline int8x16_t high_nibbles(int8x16_t x) { return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(x), 4)); }
static inline B32 high_nibbles(B32 x) { return {high_nibbles(x.a), high_nibbles(x.b)}; }
template <int field> static inline int8x16_t two_bits_high(int8x16_t x) {
  if constexpr (field < 2) x = vshlq_n_s8(x, 4 - 2 * field);
  if constexpr (field == 3) x = vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(x), 2));
  return vandq_s8(x, vdupq_n_s8(0x30));
}
template <int field> static inline B32 two_bits_high(B32 x) {  // bits 2*field and up, as 16 times their value
  return {two_bits_high<field>(x.a), two_bits_high<field>(x.b)};
}
static inline B32 either(B32 x, B32 y) { return {vorrq_s8(x.a, y.a), vorrq_s8(x.b, y.b)}; }
static inline B32 look_up(const int8_t table[16], B32 x) {
  int8x16_t t = vld1q_s8(table);
  return {vqtbl1q_s8(t, vreinterpretq_u8_s8(x.a)), vqtbl1q_s8(t, vreinterpretq_u8_s8(x.b))};
}
// For octets.h: entries of a table of eights or of fours, one after the other.
static inline B32 eights_at(const uint8_t* table, const uint16_t* i) {
  const int8_t* t = (const int8_t*)table;
  return {vcombine_s8(vld1_s8(t + 8 * i[0]), vld1_s8(t + 8 * i[1])), vcombine_s8(vld1_s8(t + 8 * i[2]), vld1_s8(t + 8 * i[3]))};
}
static inline B32 fours_at(const uint8_t* table, const uint16_t* i) {
  const int32_t* t = (const int32_t*)table;
  const int32_t words[8] = {t[i[0]], t[i[1]], t[i[2]], t[i[3]], t[i[4]], t[i[5]], t[i[6]], t[i[7]]};
  return {vreinterpretq_s8_s32(vld1q_s32(words)), vreinterpretq_s8_s32(vld1q_s32(words + 4))};
}
static inline int8x16_t bits_as_bytes_16(const uint8_t* p) {
  const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
  return vreinterpretq_s8_u8(vtstq_u8(vcombine_u8(vdup_n_u8(p[0]), vdup_n_u8(p[1])), bit));
}
static inline B32 bits_as_bytes(const uint8_t* p) { return {bits_as_bytes_16(p), bits_as_bytes_16(p + 2)}; }  // all ones where set
template <Type type> static inline void read_group(const uint8_t* at, Octets& out) { read_octets<type>(at, out); }
static inline B32 negative_where(B32 x, B32 mask) {
  return {vsubq_s8(veorq_s8(x.a, mask.a), mask.a), vsubq_s8(veorq_s8(x.b, mask.b), mask.b)};
}
static inline B32 two_less_where(B32 x, B32 mask) {
  return {vaddq_s8(x.a, vaddq_s8(mask.a, mask.a)), vaddq_s8(x.b, vaddq_s8(mask.b, mask.b))};
}
static inline B32 byte_b(int8_t x) { return {vdupq_n_s8(x), vdupq_n_s8(x)}; }
static inline B32 eight_b(const int8_t* p) {  // 8 bytes, four times
  int8x8_t eight = vld1_s8(p);
  return {vcombine_s8(eight, eight), vcombine_s8(eight, eight)};
}
static inline int16x8_t pairs_zipped(int32x4_t x) { return vreinterpretq_s16_s32(vzip1q_s32(x, x)); }
static inline int16x8_t pairs_zipped_high(int32x4_t x) { return vreinterpretq_s16_s32(vzip2q_s32(x, x)); }
static inline W16 first_twice(W16 x) {  // rows 0 0 1 1 4 4 5 5
  return {pairs_zipped(vreinterpretq_s32_s16(x.a)), pairs_zipped(vreinterpretq_s32_s16(x.b))};
}
static inline W16 last_twice(W16 x) {  // rows 2 2 3 3 6 6 7 7
  return {pairs_zipped_high(vreinterpretq_s32_s16(x.a)), pairs_zipped_high(vreinterpretq_s32_s16(x.b))};
}
static inline I8 sums_of_two(I8 x, I8 y) { return {vpaddq_s32(x.a, y.a), vpaddq_s32(x.b, y.b)}; }

// Byte j of each four is an E4M3 number; its value times 2^-120, for the exponent is put where a float has its own.
template <int j> static inline float32x4_t e4m3_column(int8x16_t x) {
  int32x4_t top = vreinterpretq_s32_s8(x);
  if constexpr (j < 3) top = vshlq_n_s32(top, 24 - 8 * j);
  return vreinterpretq_f32_s32(vandq_s32(vshrq_n_s32(top, 4), vdupq_n_s32((int32_t)0x87f00000)));
}
template <int j> static inline F8 e4m3_column(B32 x) { return {e4m3_column<j>(x.a), e4m3_column<j>(x.b)}; }
static inline void e4m3_columns(B32 x, F8 columns[4]) {
  columns[0] = e4m3_column<0>(x);
  columns[1] = e4m3_column<1>(x);
  columns[2] = e4m3_column<2>(x);
  columns[3] = e4m3_column<3>(x);
}

__attribute__((always_inline)) static inline void prefetch_line(const void* p) { __builtin_prefetch(p); }

// What `dots_of_fours.inl` asks for. Both factors have a sign, so codes are read as they are.
constexpr int RAISED_BY = 0;
static inline B32 raised(B32 x) { return x; }
template <unsigned factor> static inline I8 shifted_left(I8 x) {  // times a power of two
  constexpr int bits = std::countr_zero(factor);
  return {vshlq_n_s32(x.a, bits), vshlq_n_s32(x.b, bits)};
}
static inline int32x4_t one_of_two(int16x8_t twice) { return vshrq_n_s32(vreinterpretq_s32_s16(twice), 16); }
static inline I8 one_of_two(W16 twice) { return {one_of_two(twice.a), one_of_two(twice.b)}; }
struct Fours { int8x16_t v; };  // four times four bytes of a row of activations
static inline Fours fours(const int8_t* p) { return {vld1q_s8(p)}; }
static inline I8 add_dot(I8 sum, B32 x, B32 y) { return {vdotq_s32(sum.a, x.a, y.a), vdotq_s32(sum.b, x.b, y.b)}; }
template <int j> static inline I8 add_dot_four(I8 sum, B32 x, Fours y) {
  return {vdotq_laneq_s32(sum.a, x.a, y.v, j), vdotq_laneq_s32(sum.b, x.b, y.v, j)};
}
