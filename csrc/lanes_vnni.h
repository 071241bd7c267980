// What `dots_of_fours.inl` asks for beside lanes of eight.

template <unsigned factor> static inline Ints shifted_left(Ints a) {  // times a power of two
  return {_mm256_slli_epi32(a.v, std::countr_zero(factor))};
}
static inline Ints mul(Ints a, Ints b) { return {_mm256_mullo_epi32(a.v, b.v)}; }
static inline Ints one_of_two(Words twice) { return {_mm256_srai_epi32(twice.v, 16)}; }
constexpr int RAISED_BY = 128;  // codes with a sign: the first factor of these products has none
static inline Bytes raised(Bytes a) { return {_mm256_xor_si256(a.v, _mm256_set1_epi8((char)0x80))}; }
struct Fours { const int8_t* p; };  // four times four bytes of a row of activations
static inline Fours fours(const int8_t* p) { return {p}; }
template <int j> static inline Ints add_dot_four(Ints sum, Bytes a, Fours b) {
  return {_mm256_dpbusd_epi32(sum.v, a.v, every_four(b.p + 4 * j).v)};
}
