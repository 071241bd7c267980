// Eight lanes at a time with AVX2, FMA and F16C. `lanes_portable.h` offers the same names with the same results.
// Included inside a namespace of its own, so that the two never meet.

struct F8 { __m256 v; };   // 8 floats
struct I8 { __m256i v; };  // 8 32-bit integers
struct W16 { __m256i v; }; // 16 16-bit integers
struct B32 { __m256i v; }; // 32 bytes

constexpr int TILE_ROWS = 2;  // rows of activations whose sums fit the registers beside the codes of a tile

static inline F8 zero() { return {_mm256_setzero_ps()}; }
static inline F8 all(float x) { return {_mm256_set1_ps(x)}; }
static inline F8 all_at(const float* p) { return {_mm256_broadcast_ss(p)}; }
static inline F8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
static inline void store(float* p, F8 a) { _mm256_storeu_ps(p, a.v); }
static inline F8 add(F8 a, F8 b) { return {_mm256_add_ps(a.v, b.v)}; }
static inline F8 sub(F8 a, F8 b) { return {_mm256_sub_ps(a.v, b.v)}; }
static inline F8 mul(F8 a, F8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
static inline F8 div(F8 a, F8 b) { return {_mm256_div_ps(a.v, b.v)}; }
static inline F8 fma(F8 a, F8 b, F8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
static inline F8 minus_fma(F8 a, F8 b, F8 c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }  // c - a * b
static inline F8 larger(F8 a, F8 b) { return {_mm256_max_ps(a.v, b.v)}; }
static inline F8 smaller(F8 a, F8 b) { return {_mm256_min_ps(a.v, b.v)}; }
static inline F8 magnitude(F8 a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
static inline F8 nearest(F8 a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
static inline F8 if_less(F8 a, F8 b, F8 yes, F8 no) {
  return {_mm256_blendv_ps(no.v, yes.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))};
}
static inline F8 power_of_two(F8 n) {  // n whole, -126..127
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23))};
}
static inline float sum(F8 a) {  // ((0+1)+(2+3)) + ((4+5)+(6+7))
  __m256 pairs = _mm256_hadd_ps(a.v, a.v);
  __m256 fours = _mm256_hadd_ps(pairs, pairs);
  return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(fours), _mm256_extractf128_ps(fours, 1)));
}
static inline float largest(F8 a) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

static inline F8 load_f16(const uint16_t* p) { return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p))}; }
static inline void store_f16(uint16_t* p, F8 a) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
static inline F8 load_bf16(const uint16_t* p) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16))};
}
static inline F8 load_i8(const int8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)))};
}
static inline F8 load_u8(const uint8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)))};
}
static inline F8 load_e4m3(const uint8_t* p) {  // without a sign
  __m256i bits = _mm256_slli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)), 20);
  return {_mm256_mul_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(0x1p120f))};
}
static inline void store_i8(int8_t* p, F8 a) {  // whole numbers -127..127
  __m256i i = _mm256_cvtps_epi32(a.v);
  __m128i w = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  _mm_storel_epi64((__m128i*)p, _mm_packs_epi16(w, w));
}

static inline F8 to_float(I8 a) { return {_mm256_cvtepi32_ps(a.v)}; }
static inline I8 zero_i() { return {_mm256_setzero_si256()}; }
static inline I8 all_i(int32_t x) { return {_mm256_set1_epi32(x)}; }
static inline I8 add(I8 a, I8 b) { return {_mm256_add_epi32(a.v, b.v)}; }
static inline I8 sub(I8 a, I8 b) { return {_mm256_sub_epi32(a.v, b.v)}; }

static inline W16 all_w(int16_t x) { return {_mm256_set1_epi16(x)}; }
static inline W16 pair_w(int32_t two) { return {_mm256_set1_epi32(two)}; }  // two 16-bit numbers, eight times
static inline W16 add(W16 a, W16 b) { return {_mm256_add_epi16(a.v, b.v)}; }
static inline W16 mul(W16 a, W16 b) { return {_mm256_mullo_epi16(a.v, b.v)}; }
static inline I8 dot(W16 a, W16 b) { return {_mm256_madd_epi16(a.v, b.v)}; }
static inline W16 widen_i8(const uint8_t* p) { return {_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p))}; }
static inline W16 widen_u8(const uint8_t* p) { return {_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)p))}; }
static inline W16 evens_twice(W16 a) {  // 0 0 2 2 4 4 ...
  __m256i low = _mm256_and_si256(a.v, _mm256_set1_epi32(0xffff));
  return {_mm256_or_si256(low, _mm256_slli_epi32(low, 16))};
}
static inline W16 odds_twice(W16 a) {  // 1 1 3 3 5 5 ...
  __m256i high = _mm256_srli_epi32(a.v, 16);
  return {_mm256_or_si256(high, _mm256_slli_epi32(high, 16))};
}

static inline B32 load_b(const uint8_t* p) { return {_mm256_loadu_si256((const __m256i*)p)}; }
static inline B32 four_b(const int8_t* p) {  // 4 bytes, eight times
  int32_t four;
  memcpy(&four, p, 4);
  return {_mm256_set1_epi32(four)};
}
static inline B32 low_nibbles(B32 a) { return {_mm256_and_si256(a.v, _mm256_set1_epi8(15))}; }
static inline B32 high_nibbles(B32 a) { return {_mm256_and_si256(_mm256_srli_epi16(a.v, 4), _mm256_set1_epi8(15))}; }
template <int field> static inline B32 two_bits_high(B32 a) {  // bits 2*field and up, as 16 times their value
  __m256i moved = field == 0 ? _mm256_slli_epi16(a.v, 4)
                : field == 1 ? _mm256_slli_epi16(a.v, 2)
                : field == 2 ? a.v : _mm256_srli_epi16(a.v, 2);
  return {_mm256_and_si256(moved, _mm256_set1_epi8(0x30))};
}
static inline B32 either(B32 a, B32 b) { return {_mm256_or_si256(a.v, b.v)}; }
static inline B32 look_up(const int8_t table[16], B32 a) {
  return {_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table)), a.v)};
}
// For octets.h: entries of a table of eights or of fours, one after the other.
static inline B32 eights_at(const uint8_t* table, const uint16_t* i) {
  const uint64_t* t = (const uint64_t*)table;
  return {_mm256_set_epi64x((int64_t)t[i[3]], (int64_t)t[i[2]], (int64_t)t[i[1]], (int64_t)t[i[0]])};
}
static inline B32 fours_at(const uint8_t* table, const uint16_t* i) {
  const int32_t* t = (const int32_t*)table;
  return {_mm256_set_epi32(t[i[7]], t[i[6]], t[i[5]], t[i[4]], t[i[3]], t[i[2]], t[i[1]], t[i[0]])};
}
static inline B32 bits_as_bytes(const uint8_t* p) {  // 32 bits: all ones where set
  int32_t four;
  memcpy(&four, p, 4);
  const __m256i places = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
  const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201);
  __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(four), places);
  return {_mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit)};
}
// As octets.h has it, with fewer instructions than compilers find.
template <Type type> static inline void read_group(const uint8_t* at, Octets& out) { read_octets<type>(at, out); }
template <> inline void read_group<Type::IQ2_XS>(const uint8_t* at, Octets& out) {
  const __m256i words[2] = {load_b(at).v, load_b(at + 32).v}, nine = _mm256_set1_epi16(511), nibble = _mm256_set1_epi8(15);
  for (int i = 0; i < 2; i++) _mm256_storeu_si256((__m256i*)(out.index + 16 * i), _mm256_and_si256(words[i], nine));
  __m256i seven = _mm256_packus_epi16(_mm256_srli_epi16(words[0], 9), _mm256_srli_epi16(words[1], 9));
  seven = _mm256_permute4x64_epi64(seven, 0xd8);
  __m256i folded = _mm256_and_si256(_mm256_xor_si256(seven, _mm256_srli_epi16(seven, 4)), nibble);
  const __m256i odd = _mm256_set_epi64x((int64_t)0x0080800080000080, (int64_t)0x8000008000808000, (int64_t)0x0080800080000080,
                                        (int64_t)0x8000008000808000);
  _mm256_storeu_si256((__m256i*)out.signs, _mm256_or_si256(seven, _mm256_shuffle_epi8(odd, folded)));
  __m128i scales = _mm_loadl_epi64((const __m128i*)(at + 64)), low = _mm_set1_epi8(15);
  __m128i steps = _mm_unpacklo_epi8(_mm_and_si128(scales, low), _mm_and_si128(_mm_srli_epi16(scales, 4), low));
  _mm_storeu_si128((__m128i*)out.steps, _mm_or_si128(_mm_add_epi8(steps, steps), _mm_set1_epi8(1)));
}
static inline B32 negative_where(B32 a, B32 mask) { return {_mm256_sub_epi8(_mm256_xor_si256(a.v, mask.v), mask.v)}; }
static inline B32 two_less_where(B32 a, B32 mask) { return {_mm256_add_epi8(a.v, _mm256_add_epi8(mask.v, mask.v))}; }
static inline B32 byte_b(int8_t x) { return {_mm256_set1_epi8(x)}; }
static inline B32 eight_b(const int8_t* p) {  // 8 bytes, four times
  int64_t eight;
  memcpy(&eight, p, 8);
  return {_mm256_set1_epi64x(eight)};
}
static inline W16 first_twice(W16 a) { return {_mm256_unpacklo_epi32(a.v, a.v)}; }  // rows 0 0 1 1 4 4 5 5
static inline W16 last_twice(W16 a) { return {_mm256_unpackhi_epi32(a.v, a.v)}; }   // rows 2 2 3 3 6 6 7 7
static inline B32 first_fours(B32 a, B32 b) {  // of each eight bytes of both the first four, in the order of rows
  return {_mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a.v), _mm256_castsi256_ps(b.v), 0x88))};
}
static inline B32 last_fours(B32 a, B32 b) {
  return {_mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a.v), _mm256_castsi256_ps(b.v), 0xdd))};
}
static inline I8 sums_of_two(I8 a, I8 b) { return {_mm256_hadd_epi32(a.v, b.v)}; }

// Byte j of each four is an E4M3 number; its value times 2^-120, for the exponent is put where a float has its own.
template <int j> static inline F8 e4m3_column(B32 a) {
  __m256i top = j == 3 ? a.v : _mm256_slli_epi32(a.v, 24 - 8 * j);
  return {_mm256_castsi256_ps(_mm256_and_si256(_mm256_srai_epi32(top, 4), _mm256_set1_epi32((int)0x87f00000)))};
}
static inline void e4m3_columns(B32 a, F8 columns[4]) {  // all four of them: two at a time as bfloats
  const __m256i bits = _mm256_set1_epi16((short)0x87f0), high = _mm256_set1_epi32((int)0xffff0000);
  __m256i odd = _mm256_and_si256(_mm256_srai_epi16(a.v, 4), bits);
  __m256i even = _mm256_and_si256(_mm256_srai_epi16(_mm256_slli_epi16(a.v, 8), 4), bits);
  columns[0] = {_mm256_castsi256_ps(_mm256_slli_epi32(even, 16))};
  columns[1] = {_mm256_castsi256_ps(_mm256_slli_epi32(odd, 16))};
  columns[2] = {_mm256_castsi256_ps(_mm256_and_si256(even, high))};
  columns[3] = {_mm256_castsi256_ps(_mm256_and_si256(odd, high))};
}
static inline B32 magnitude(B32 a) { return {_mm256_abs_epi8(a.v)}; }
static inline B32 with_sign(B32 a, B32 sign) { return {_mm256_sign_epi8(a.v, sign.v)}; }
static inline W16 dot_unsigned(B32 a, B32 b) { return {_mm256_maddubs_epi16(a.v, b.v)}; }  // unsigned a, signed b

// For unpacked.inl.
static inline F8 minus(F8 a) { return {_mm256_xor_ps(a.v, _mm256_set1_ps(-0.0f))}; }
static inline B32 sub(B32 a, B32 b) { return {_mm256_sub_epi8(a.v, b.v)}; }
static inline W16 even_bytes(B32 a) { return {_mm256_srai_epi16(_mm256_slli_epi16(a.v, 8), 8)}; }  // with their signs
static inline W16 odd_bytes(B32 a) { return {_mm256_srai_epi16(a.v, 8)}; }
static inline W16 load_w(const void* p) { return {_mm256_load_si256((const __m256i*)p)}; }
static inline void store_w(void* p, W16 a) { _mm256_store_si256((__m256i*)p, a.v); }

__attribute__((always_inline)) static inline void prefetch_line(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
