// Where sixteen rows at a time lie. Included in the namespace of their lanes.

struct At {  // the same place in two tiles
  const uint8_t *p, *q;
  At operator+(size_t bytes) const { return {p + bytes, q + bytes}; }
};
// The tile and the next; by itself twice, where there is no next.
static inline At place(const uint8_t* tile, size_t size, bool both) { return {tile, both ? tile + size : tile}; }
// For octets.h: both groups; the places are those in two Octets.
template <class F> static inline At octets_of(At group, F read, Octets* room) {
  read(group.p, room[0]);
  read(group.q, room[1]);
  return {(const uint8_t*)room, (const uint8_t*)(room + 1)};
}
static inline size_t read_ahead(size_t size) { return 2 * size; }  // the next two tiles
