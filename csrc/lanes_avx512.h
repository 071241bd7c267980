// Sixteen rows at a time, two tiles beside each other, with AVX-512 and its dot products of bytes (VNNI): what
// `products.inl` asks for, with the same bits in each lane as eight rows at a time have.

struct Floats { __m512 v; };
struct Ints { __m512i v; };
struct Words { __m512i v; };
struct Bytes { __m512i v; };

constexpr int TILES_AT_ONCE = 2, ROWS = 8, FLOAT_ROWS = 6;
constexpr int BLOCK_PLACES = 2, BLOCK_ROWS = 9, LEAST_BLOCK = 5;  // of float products: fewer sums would wait for themselves

static inline void store_rows(float* y, Floats a, bool both) { _mm512_mask_storeu_ps(y, both ? 0xffff : 0xff, a.v); }

static inline __m128i eight_bytes(At a) {
  return _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i*)a.p), _mm_loadl_epi64((const __m128i*)a.q));
}
static inline __m256i sixteen_bytes(At a) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)a.p)), _mm_loadu_si128((const __m128i*)a.q), 1);
}
static inline Bytes bytes(At a) {
  return {_mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)a.p)), _mm256_loadu_si256((const __m256i*)a.q), 1)};
}
static inline Floats floats(At a) { return {_mm512_castsi512_ps(bytes(a).v)}; }
static inline Floats halves(At a) { return {_mm512_cvtph_ps(sixteen_bytes(a))}; }
static inline Floats bfloats(At a) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(sixteen_bytes(a)), 16))};
}
static inline Floats small_numbers(At a) { return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(eight_bytes(a)))}; }
static inline Floats byte_floats(At a) {
  __m512i bits = _mm512_slli_epi32(_mm512_cvtepu8_epi32(eight_bytes(a)), 20);
  return {_mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(0x1p120f))};
}
static inline Words steps_of_two(At a) { return {_mm512_cvtepi8_epi16(sixteen_bytes(a))}; }
static inline Words minima_of_two(At a) { return {_mm512_cvtepu8_epi16(sixteen_bytes(a))}; }
__attribute__((always_inline)) static inline void prefetch(At a) {
  _mm_prefetch((const char*)a.p, _MM_HINT_T0);
  _mm_prefetch((const char*)a.q, _MM_HINT_T0);
}

static inline Floats every_at(const float* p) { return {_mm512_set1_ps(*p)}; }
static inline Floats every(float x) { return {_mm512_set1_ps(x)}; }
static inline Floats add(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline Floats mul(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline Floats minus_fma(Floats a, Floats b, Floats c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
static inline Floats to_float(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }

static inline Ints every_whole(int32_t x) { return {_mm512_set1_epi32(x)}; }
template <unsigned factor> static inline Ints shifted_left(Ints a) {  // times a power of two
  return {_mm512_slli_epi32(a.v, std::countr_zero(factor))};
}
static inline Ints nothing() { return {_mm512_setzero_si512()}; }
static inline Ints add(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
static inline Ints sub(Ints a, Ints b) { return {_mm512_sub_epi32(a.v, b.v)}; }
static inline Ints mul(Ints a, Ints b) { return {_mm512_mullo_epi32(a.v, b.v)}; }

static inline Words every_word(int16_t x) { return {_mm512_set1_epi16(x)}; }
static inline Words every_pair(int32_t two) { return {_mm512_set1_epi32(two)}; }
static inline Words mul(Words a, Words b) { return {_mm512_mullo_epi16(a.v, b.v)}; }
static inline Ints dot(Words a, Words b) { return {_mm512_madd_epi16(a.v, b.v)}; }
static inline Words evens_twice(Words a) {
  __m512i low = _mm512_and_si512(a.v, _mm512_set1_epi32(0xffff));
  return {_mm512_or_si512(low, _mm512_slli_epi32(low, 16))};
}
static inline Words odds_twice(Words a) {
  __m512i high = _mm512_srli_epi32(a.v, 16);
  return {_mm512_or_si512(high, _mm512_slli_epi32(high, 16))};
}
static inline Ints one_of_two(Words twice) { return {_mm512_srai_epi32(twice.v, 16)}; }

static inline Bytes every_four(const int8_t* p) {
  int32_t four;
  memcpy(&four, p, 4);
  return {_mm512_set1_epi32(four)};
}
static inline Bytes low_nibbles(Bytes a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
static inline Bytes high_nibbles(Bytes a) { return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))}; }
template <int field> static inline Bytes two_bits_high(Bytes a) {
  __m512i moved = field == 0 ? _mm512_slli_epi16(a.v, 4)
                : field == 1 ? _mm512_slli_epi16(a.v, 2)
                : field == 2 ? a.v : _mm512_srli_epi16(a.v, 2);
  return {_mm512_and_si512(moved, _mm512_set1_epi8(0x30))};
}
static inline Bytes either(Bytes a, Bytes b) { return {_mm512_or_si512(a.v, b.v)}; }
static inline Bytes look_up(const int8_t table[16], Bytes a) {
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table)), a.v)};
}
template <int j> static inline Floats e4m3_column(Bytes a) {
  __m512i top = j == 3 ? a.v : _mm512_slli_epi32(a.v, 24 - 8 * j);
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_srai_epi32(top, 4), _mm512_set1_epi32((int)0x87f00000)))};
}
static inline void e4m3_columns(Bytes a, Floats columns[4]) {
  columns[0] = e4m3_column<0>(a);
  columns[1] = e4m3_column<1>(a);
  columns[2] = e4m3_column<2>(a);
  columns[3] = e4m3_column<3>(a);
}
constexpr int RAISED_BY = 128;  // codes with a sign: the first factor of these products has none
static inline Bytes raised(Bytes a) { return {_mm512_xor_si512(a.v, _mm512_set1_epi8((char)0x80))}; }
static inline Bytes two_of_eight(B32 a, B32 b) { return {_mm512_inserti64x4(_mm512_castsi256_si512(a.v), b.v, 1)}; }
// For octets.h, as in lanes_avx2.h.
static inline Bytes eights(const uint8_t* table, At index) {
  return two_of_eight(eights_at(table, (const uint16_t*)index.p), eights_at(table, (const uint16_t*)index.q));
}
static inline Bytes fours_of(const uint8_t* table, At index) {
  return two_of_eight(fours_at(table, (const uint16_t*)index.p), fours_at(table, (const uint16_t*)index.q));
}
static inline Bytes sign_bytes(At bits) { return two_of_eight(bits_as_bytes(bits.p), bits_as_bytes(bits.q)); }
static inline Bytes every_eight(const int8_t* p) {
  int64_t eight;
  memcpy(&eight, p, 8);
  return {_mm512_set1_epi64(eight)};
}
static inline Bytes negative_where(Bytes a, Bytes mask) { return {_mm512_sub_epi8(_mm512_xor_si512(a.v, mask.v), mask.v)}; }
static inline Bytes two_less_where(Bytes a, Bytes mask) { return {_mm512_add_epi8(a.v, _mm512_add_epi8(mask.v, mask.v))}; }
static inline Words first_twice(Words a) { return {_mm512_unpacklo_epi32(a.v, a.v)}; }
static inline Words last_twice(Words a) { return {_mm512_unpackhi_epi32(a.v, a.v)}; }
static inline Ints sums_of_two(Ints a, Ints b) {
  __m512 x = _mm512_castsi512_ps(a.v), y = _mm512_castsi512_ps(b.v);
  return {_mm512_add_epi32(_mm512_castps_si512(_mm512_shuffle_ps(x, y, 0x88)), _mm512_castps_si512(_mm512_shuffle_ps(x, y, 0xdd)))};
}
static inline Ints add_dot(Ints sum, Bytes a, Bytes b) { return {_mm512_dpbusd_epi32(sum.v, a.v, b.v)}; }
struct Fours { const int8_t* p; };  // four times four bytes of a row of activations
static inline Fours fours(const int8_t* p) { return {p}; }
template <int j> static inline Ints add_dot_four(Ints sum, Bytes a, Fours b) {
  return {_mm512_dpbusd_epi32(sum.v, a.v, every_four(b.p + 4 * j).v)};
}

// What functions of single numbers ask for, as in lanes_avx2.h.
static inline Floats sub(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline Floats div(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline Floats larger(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline Floats smaller(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline Floats magnitude(Floats a) { return {_mm512_abs_ps(a.v)}; }
static inline Floats nearest(Floats a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
static inline Floats if_less(Floats a, Floats b, Floats yes, Floats no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}
static inline Floats power_of_two(Floats n) {  // n whole, -126..127
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23))};
}
static inline void store(float* p, Floats a) { _mm512_storeu_ps(p, a.v); }

struct Sixteen {  // as in eight.h
  using Lanes = Floats;
  static constexpr int N = 16;
  static constexpr int at_once(int) { return 4; }
  static Lanes numbers(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Lanes halves(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
  static Lanes bytes(const int8_t* p) { return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))}; }
  static Lanes every(const float* p) { return every_at(p); }
};
