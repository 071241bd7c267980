// What is done lane by lane, whatever the number of lanes, asks this much of them. Included behind lanes of eight.

struct Eight {
  using Lanes = F8;
  static constexpr int N = 8;
  static constexpr int at_once(int rows) { return rows == 1 ? 8 : rows < 4 ? 4 : 2; }  // vectors of a row whose sums stay in registers
  static Lanes numbers(const float* p) { return load(p); }
  static Lanes halves(const uint16_t* p) { return load_f16(p); }
  static Lanes bytes(const int8_t* p) { return load_i8(p); }
  static Lanes every(const float* p) { return all_at(p); }
};

template <class V> static inline V filled(float x);  // all lanes the same
template <> inline F8 filled<F8>(float x) { return all(x); }
