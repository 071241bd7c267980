// How weights lie in memory. One layout serves one token and many.
//
// A matrix is cut into tiles of 8 rows. A tile of a quantised matrix is a run of groups of 32 columns:
//
//   codes   4 bits: 4 x 32 bytes; low nibbles of the j-th hold 8 rows x columns 8j..8j+3, high nibbles 8j+4..8j+7
//           6 bits: the same, then 2 x 32 bytes with the two high bits, four columns' worth in each byte
//           8 bits: 8 x 32 bytes, each 8 rows x 4 columns
//   scales  8 rows of them, by the kind:
//           HALF, BFLOAT            scale                            value = scale * (code - offset)
//           HALF_MIN                scale, then minimum              value = scale * (code - offset) + minimum
//           FLOATS_16               an E4M3 byte for columns 0 to 15, then one for 16 to 31. A header before every 8
//                                   groups has a float d for each row:  value = d * scale * (code - offset)
//           STEPS_32_MIN            a byte step, then a byte minimum of 32 columns
//           STEPS_16, STEPS_16_MIN  a byte step for each 16 columns, then minima likewise
//   The STEPS have a header before every 8 groups, a half d (and a half m) for each row:
//                                   value = d * step * (code - offset) - m * minimum
//
// OCTETS are codes of 8 columns at a time: octets.h says how they lie.
//
// A tile of a float matrix is columns x 8 rows. The last tile's missing rows are zero. FLOATS_128: before every 128
// columns of bytes in E4M3, four columns of a row side by side, there is a float d for each row:  value = d * byte
//
// Products of 4-bit codes with 8-bit activations are added in 16 bits: 16 of 15 * 127 fit, 4 of 63 * 127, 2 of 128 * 127.
#pragma once
#include <cstddef>
#include <cstdint>

namespace trilens {

enum class Type : int32_t {
  F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4,
  NVFP4, NF4, FP4, Q8_MIN, F8_E4M3,
  IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, COUNT
};

enum class Scales { NONE, HALF, BFLOAT, HALF_MIN, STEPS_32_MIN, STEPS_16, STEPS_16_MIN, FLOATS_16, FLOATS_128, OCTETS };

struct Layout {
  const char* name;
  int file_block, file_bytes;  // columns and bytes of a block in the file
  int bits;                    // 4, 6, 8; 8, 16 and 32 for floats
  Scales scales;
  int offset;
  const int8_t* table;  // what a code stands for, where it is not itself
  int group = 0;        // bytes of a group of OCTETS (octets.h)
  int entries = 0;      // of their table
};

extern const int8_t IQ4_TABLE[16];
extern const int8_t MXFP4_TABLE[16];  // twice the value, plus 12; NVFP4's too
extern const int8_t NF4_TABLE[16];    // 112 times the value, rounded: no other factor up to 127 rounds less
extern const int8_t FP4_TABLE[16];    // 120 times the value, of which only the smallest is rounded

const Layout& layout(Type type);
bool is_float(Type type);  // products read the activations' floats, not their codes
size_t group_bytes(const Layout& l);   // of one group of 32 columns of a tile
size_t header_bytes(const Layout& l);  // before every 8 groups
size_t tile_bytes(Type type, int columns);

// The table of an OCTETS type: `entries` of it, 8 (or 4) signed bytes each. Null until it is set.
const uint8_t* octet_table(Type type);
void set_octet_table(Type type, const uint8_t* bytes, size_t count);

// One matrix, or a stack of `count` of them (experts, heads).
struct Matrix {
  Type type = Type::F32;
  int count = 1, rows = 0, columns = 0;
  uint8_t* data = nullptr;

  int tiles() const { return (rows + 7) / 8; }
  size_t tile_size() const { return tile_bytes(type, columns); }
  size_t one_size() const { return tile_size() * tiles(); }
  size_t bytes() const { return one_size() * count; }
  const uint8_t* tile(int which, int t) const { return data + which * one_size() + t * tile_size(); }
};

// Packs `n` rows of the file's bytes into rows first, first + 1, ... of matrix `which`. `first` begins a tile, and `n`
// ends one or the matrix.
void pack_rows(Matrix& m, int which, int first, const uint8_t* rows, size_t row_stride, int n);

// One row back as floats.
void unpack_row(const Matrix& m, int which, int row, float* out);

}  // namespace trilens
