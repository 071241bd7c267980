// Sixteen rows at a time as twice eight lanes: what one row of activations is read for twice is loaded once.
// Included behind lanes of eight, in their namespace.

template <class T> struct Two { T a, b; };
using Floats = Two<F8>;
using Ints = Two<I8>;
using Words = Two<W16>;
using Bytes = Two<B32>;

constexpr int TILES_AT_ONCE = 2, ROWS = 4, FLOAT_ROWS = 1;
constexpr int BLOCK_PLACES = 1, BLOCK_ROWS = 6, LEAST_BLOCK = 4;  // of float products

static inline void store_rows(float* y, Floats x, bool both) {
  store(y, x.a);
  if (both) store(y + 8, x.b);
}

static inline Floats floats(At at) { return {load((const float*)at.p), load((const float*)at.q)}; }
static inline Floats halves(At at) { return {load_f16((const uint16_t*)at.p), load_f16((const uint16_t*)at.q)}; }
static inline Floats bfloats(At at) { return {load_bf16((const uint16_t*)at.p), load_bf16((const uint16_t*)at.q)}; }
static inline Floats small_numbers(At at) { return {load_u8(at.p), load_u8(at.q)}; }
static inline Floats byte_floats(At at) { return {load_e4m3(at.p), load_e4m3(at.q)}; }
static inline Words steps_of_two(At at) { return {widen_i8(at.p), widen_i8(at.q)}; }
static inline Words minima_of_two(At at) { return {widen_u8(at.p), widen_u8(at.q)}; }
static inline Bytes bytes(At at) { return {load_b(at.p), load_b(at.q)}; }
__attribute__((always_inline)) static inline void prefetch(At at) {
  prefetch_line(at.p);
  prefetch_line(at.q);
}

// One number or four bytes for all rows.
static inline Floats every(float x) { return {all(x), all(x)}; }
static inline Floats every_at(const float* p) { return {all_at(p), all_at(p)}; }
static inline Words every_word(int16_t x) { return {all_w(x), all_w(x)}; }
static inline Words every_pair(int32_t two) { return {pair_w(two), pair_w(two)}; }
static inline Bytes every_four(const int8_t* p) { return {four_b(p), four_b(p)}; }

// For octets.h.
static inline Bytes eights(const uint8_t* table, At index) {
  return {eights_at(table, (const uint16_t*)index.p), eights_at(table, (const uint16_t*)index.q)};
}
static inline Bytes fours_of(const uint8_t* table, At index) {
  return {fours_at(table, (const uint16_t*)index.p), fours_at(table, (const uint16_t*)index.q)};
}
static inline Bytes sign_bytes(At bits) { return {bits_as_bytes(bits.p), bits_as_bytes(bits.q)}; }
static inline Bytes every_byte(int8_t x) { return {byte_b(x), byte_b(x)}; }
static inline Bytes every_eight(const int8_t* p) { return {eight_b(p), eight_b(p)}; }
static inline Bytes negative_where(Bytes x, Bytes mask) { return {negative_where(x.a, mask.a), negative_where(x.b, mask.b)}; }
static inline Bytes two_less_where(Bytes x, Bytes mask) { return {two_less_where(x.a, mask.a), two_less_where(x.b, mask.b)}; }
static inline Words first_twice(Words x) { return {first_twice(x.a), first_twice(x.b)}; }
static inline Words last_twice(Words x) { return {last_twice(x.a), last_twice(x.b)}; }
static inline Ints sums_of_two(Ints x, Ints y) { return {sums_of_two(x.a, y.a), sums_of_two(x.b, y.b)}; }

static inline Floats fma(Floats x, Floats y, Floats z) { return {fma(x.a, y.a, z.a), fma(x.b, y.b, z.b)}; }
static inline Floats minus_fma(Floats x, Floats y, Floats z) { return {minus_fma(x.a, y.a, z.a), minus_fma(x.b, y.b, z.b)}; }
static inline Floats to_float(Ints x) { return {to_float(x.a), to_float(x.b)}; }
template <class T> static inline Two<T> add(Two<T> x, Two<T> y) { return {add(x.a, y.a), add(x.b, y.b)}; }
template <class T> static inline Two<T> mul(Two<T> x, Two<T> y) { return {mul(x.a, y.a), mul(x.b, y.b)}; }
static inline Ints sub(Ints x, Ints y) { return {sub(x.a, y.a), sub(x.b, y.b)}; }
static inline Ints dot(Words x, Words y) { return {dot(x.a, y.a), dot(x.b, y.b)}; }
static inline Words dot_unsigned(Bytes x, Bytes y) { return {dot_unsigned(x.a, y.a), dot_unsigned(x.b, y.b)}; }
static inline Words evens_twice(Words x) { return {evens_twice(x.a), evens_twice(x.b)}; }
static inline Words odds_twice(Words x) { return {odds_twice(x.a), odds_twice(x.b)}; }
static inline Bytes low_nibbles(Bytes x) { return {low_nibbles(x.a), low_nibbles(x.b)}; }
static inline Bytes high_nibbles(Bytes x) { return {high_nibbles(x.a), high_nibbles(x.b)}; }
template <int field> static inline Bytes two_bits_high(Bytes x) { return {two_bits_high<field>(x.a), two_bits_high<field>(x.b)}; }
static inline Bytes either(Bytes x, Bytes y) { return {either(x.a, y.a), either(x.b, y.b)}; }
static inline Bytes look_up(const int8_t table[16], Bytes x) { return {look_up(table, x.a), look_up(table, x.b)}; }
template <int j> static inline Floats e4m3_column(Bytes x) { return {e4m3_column<j>(x.a), e4m3_column<j>(x.b)}; }
static inline void e4m3_columns(Bytes x, Floats columns[4]) {
  F8 a[4], b[4];
  e4m3_columns(x.a, a);
  e4m3_columns(x.b, b);
  for (int i = 0; i < 4; i++) columns[i] = {a[i], b[i]};
}
static inline Bytes magnitude(Bytes x) { return {magnitude(x.a), magnitude(x.b)}; }
static inline Bytes with_sign(Bytes x, Bytes sign) { return {with_sign(x.a, sign.a), with_sign(x.b, sign.b)}; }

// For unpacked.inl.
static inline Floats minus(Floats x) { return {minus(x.a), minus(x.b)}; }
static inline Bytes sub(Bytes x, Bytes y) { return {sub(x.a, y.a), sub(x.b, y.b)}; }
static inline Words even_bytes(Bytes x) { return {even_bytes(x.a), even_bytes(x.b)}; }
static inline Words odd_bytes(Bytes x) { return {odd_bytes(x.a), odd_bytes(x.b)}; }
static inline Bytes first_fours(Bytes x, Bytes y) { return {first_fours(x.a, y.a), first_fours(x.b, y.b)}; }
static inline Bytes last_fours(Bytes x, Bytes y) { return {last_fours(x.a, y.a), last_fours(x.b, y.b)}; }
static inline void put(uint8_t* to, Words x) { store_w(to, x.a), store_w(to + sizeof(W16), x.b); }
static inline void put(uint8_t* to, Bytes x) { put(to, Words{{x.a.v}, {x.b.v}}); }
static inline Words words_at(const uint8_t* from) { return {load_w(from), load_w(from + sizeof(W16))}; }
static inline Bytes bytes_at(const uint8_t* from) { return {load_b(from), load_b(from + sizeof(B32))}; }
static inline Words every_pair_at(const int16_t* two) {
  int32_t pair;
  memcpy(&pair, two, 4);
  return every_pair(pair);
}
// Widens a row's 32 codes to 16 bits: 256 * code + fine code, or the code alone. Even columns first, then odd ones.
static inline void widen_row(const int8_t* codes, const int8_t* fine, int16_t* to) {
  const B32 code = load_b((const uint8_t*)codes);
  W16 even = even_bytes(code), odd = odd_bytes(code);
  if (fine) {
    const B32 more = load_b((const uint8_t*)fine);
    even = add(mul(even, all_w(256)), even_bytes(more));
    odd = add(mul(odd, all_w(256)), odd_bytes(more));
  }
  store_w(to, even);
  store_w(to + 16, odd);
}
