// What `products.inl` asks of a tile's bytes, eight rows at a time. Included behind lanes of eight, in their namespace.

using Floats = F8;
using Ints = I8;
using Words = W16;
using Bytes = B32;

constexpr int TILES_AT_ONCE = 1, ROWS = TILE_ROWS, FLOAT_ROWS = 3;
constexpr int BLOCK_PLACES = 1, BLOCK_ROWS = 1, LEAST_BLOCK = INT32_MAX;  // blocks are for wider lanes

struct At {  // a place in a tile
  const uint8_t* p;
  At operator+(size_t bytes) const { return {p + bytes}; }
};
static inline At place(const uint8_t* tile, size_t, bool) { return {tile}; }
static inline size_t read_ahead(size_t) { return 2048; }  // a tile is followed by the next
static inline void store_rows(float* y, Floats a, bool) { store(y, a); }

static inline Floats floats(At a) { return load((const float*)a.p); }
static inline Floats halves(At a) { return load_f16((const uint16_t*)a.p); }
static inline Floats bfloats(At a) { return load_bf16((const uint16_t*)a.p); }
static inline Floats small_numbers(At a) { return load_u8(a.p); }
static inline Floats byte_floats(At a) { return load_e4m3(a.p); }
static inline Words steps_of_two(At a) { return widen_i8(a.p); }
static inline Words minima_of_two(At a) { return widen_u8(a.p); }
static inline Bytes bytes(At a) { return load_b(a.p); }
__attribute__((always_inline)) static inline void prefetch(At a) { prefetch_line(a.p); }

// For octets.h; a place is one in Octets.
template <class F> static inline At octets_of(At group, F read, Octets* room) {
  read(group.p, room[0]);
  return {(const uint8_t*)room};
}
static inline Bytes eights(const uint8_t* table, At index) { return eights_at(table, (const uint16_t*)index.p); }
static inline Bytes fours_of(const uint8_t* table, At index) { return fours_at(table, (const uint16_t*)index.p); }
static inline Bytes sign_bytes(At bits) { return bits_as_bytes(bits.p); }
static inline Bytes every_byte(int8_t x) { return byte_b(x); }
static inline Bytes every_eight(const int8_t* p) { return eight_b(p); }

static inline Floats every(float x) { return all(x); }
static inline Floats every_at(const float* p) { return all_at(p); }
static inline Ints every_whole(int32_t x) { return all_i(x); }
static inline Ints nothing() { return zero_i(); }
static inline Words every_word(int16_t x) { return all_w(x); }
static inline Words every_pair(int32_t two) { return pair_w(two); }
static inline Bytes every_four(const int8_t* p) { return four_b(p); }
