// What `dots_of_fours.inl` asks for beside lanes of eight.

static inline Ints every_whole(int32_t x) { return all_i(x); }
template <unsigned factor> static inline Ints shifted_left(Ints a) {  // times a power of two
  return {_mm256_slli_epi32(a.v, std::countr_zero(factor))};
}
static inline Ints nothing() { return zero_i(); }
static inline Ints mul(Ints a, Ints b) { return {_mm256_mullo_epi32(a.v, b.v)}; }
static inline Ints one_of_two(Words twice) { return {_mm256_srai_epi32(twice.v, 16)}; }
static inline Bytes plus_128(Bytes a) { return {_mm256_xor_si256(a.v, _mm256_set1_epi8((char)0x80))}; }
static inline Ints add_dot_four(Ints sum, Bytes a, Bytes b) { return {_mm256_dpbusd_epi32(sum.v, a.v, b.v)}; }  // unsigned a
