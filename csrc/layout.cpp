#include "layout.h"

#include <cstring>
#include <vector>

#include "half.h"
#include "octets.h"

namespace trilens {

const int8_t IQ4_TABLE[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
const int8_t MXFP4_TABLE[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
const int8_t NF4_TABLE[16] = {-112, -78, -59, -44, -32, -21, -10, 0, 9, 18, 28, 38, 49, 63, 81, 112};
const int8_t FP4_TABLE[16] = {0, 1, 80, 120, 40, 60, 20, 30, 0, -1, -80, -120, -40, -60, -20, -30};

static const Layout LAYOUTS[] = {
    {"F32", 1, 4, 32, Scales::NONE, 0, nullptr},
    {"F16", 1, 2, 16, Scales::NONE, 0, nullptr},
    {"BF16", 1, 2, 16, Scales::NONE, 0, nullptr},
    {"Q4_0", 32, 18, 4, Scales::HALF, 8, nullptr},
    {"Q4_1", 32, 20, 4, Scales::HALF_MIN, 0, nullptr},
    {"Q5_0", 32, 22, 6, Scales::HALF, 16, nullptr},
    {"Q5_1", 32, 24, 6, Scales::HALF_MIN, 0, nullptr},
    {"Q8_0", 32, 34, 8, Scales::HALF, 0, nullptr},
    {"Q2_K", 256, 84, 4, Scales::STEPS_16_MIN, 0, nullptr},
    {"Q3_K", 256, 110, 4, Scales::STEPS_16, 4, nullptr},
    {"Q4_K", 256, 144, 4, Scales::STEPS_32_MIN, 0, nullptr},
    {"Q5_K", 256, 176, 6, Scales::STEPS_32_MIN, 0, nullptr},
    {"Q6_K", 256, 210, 6, Scales::STEPS_16, 32, nullptr},
    {"IQ4_NL", 32, 18, 4, Scales::HALF, 0, IQ4_TABLE},
    {"IQ4_XS", 256, 136, 4, Scales::STEPS_16, 0, IQ4_TABLE},
    {"MXFP4", 32, 17, 4, Scales::BFLOAT, 12, MXFP4_TABLE},
    {"NVFP4", 32, 22, 4, Scales::FLOATS_16, 12, MXFP4_TABLE},
    {"NF4", 32, 18, 4, Scales::HALF, 0, NF4_TABLE},
    {"FP4", 32, 18, 4, Scales::HALF, 0, FP4_TABLE},
    {"Q8_MIN", 32, 36, 8, Scales::HALF_MIN, -128, nullptr},
    {"F8_E4M3", 32, 36, 8, Scales::FLOATS_128, 0, nullptr},
    {"IQ1_S", 256, 50, 0, Scales::OCTETS, 0, nullptr, octet_bytes(Type::IQ1_S), 2048},
    {"IQ1_M", 256, 56, 0, Scales::OCTETS, 0, nullptr, octet_bytes(Type::IQ1_M), 2048},
    {"IQ2_XXS", 256, 66, 0, Scales::OCTETS, 0, nullptr, octet_bytes(Type::IQ2_XXS), 256},
    {"IQ2_XS", 256, 74, 0, Scales::OCTETS, 0, nullptr, octet_bytes(Type::IQ2_XS), 512},
    {"IQ2_S", 256, 82, 0, Scales::OCTETS, 0, nullptr, octet_bytes(Type::IQ2_S), 1024},
    {"IQ3_XXS", 256, 98, 0, Scales::OCTETS, 0, nullptr, octet_bytes(Type::IQ3_XXS), 256},
    {"IQ3_S", 256, 110, 0, Scales::OCTETS, 0, nullptr, octet_bytes(Type::IQ3_S), 512},
};

const Layout& layout(Type type) { return LAYOUTS[(int)type]; }
bool is_float(Type type) { return layout(type).scales == Scales::NONE || type == Type::F8_E4M3; }

size_t header_bytes(const Layout& l) {
  switch (l.scales) {
    case Scales::OCTETS:
    case Scales::STEPS_16: return 16;
    case Scales::STEPS_32_MIN:
    case Scales::STEPS_16_MIN:
    case Scales::FLOATS_16: return 32;
    default: return 0;
  }
}

static size_t scale_bytes(Scales s) {
  switch (s) {
    case Scales::NONE:
    case Scales::OCTETS:
    case Scales::FLOATS_128: return 0;
    case Scales::HALF_MIN:
    case Scales::STEPS_16_MIN: return 32;
    default: return 16;
  }
}

size_t group_bytes(const Layout& l) { return l.scales == Scales::OCTETS ? l.group : 32 * l.bits + scale_bytes(l.scales); }

size_t tile_bytes(Type type, int columns) {
  const Layout& l = layout(type);
  if (type == Type::F8_E4M3) return (size_t)columns * 8 + (columns + 127) / 128 * 32;
  if (is_float(type)) return (size_t)columns * l.bits;  // 8 rows of bits / 8 bytes
  return columns / 32 * group_bytes(l) + (columns + 255) / 256 * header_bytes(l);
}

static uint16_t half_at(const uint8_t* p) {
  uint16_t h;
  memcpy(&h, p, 2);
  return h;
}

// 32 columns of one row, as every quantisation can be told.
struct Group {
  uint8_t codes[32];
  uint16_t scale, minimum;         // halves (or a bfloat): of the group, or d and m of its 256 columns
  uint8_t steps[2], minima[2];     // of each 16 columns
  float factor;                    // of the row
};

static void nibbles(const uint8_t* q, uint8_t* codes) {
  for (int i = 0; i < 16; i++) {
    codes[i] = q[i] & 15;
    codes[i + 16] = q[i] >> 4;
  }
}

static void fifth_bits(const uint8_t* p, uint8_t* codes) {
  for (int i = 0; i < 32; i++) codes[i] |= (p[i / 8] >> (i % 8) & 1) << 4;
}

// Q4_K and Q5_K keep eight 6-bit steps and eight 6-bit minima in 12 bytes.
static void six_bit_pair(const uint8_t* s, int j, Group& out) {
  uint8_t step = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
  uint8_t minimum = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
  out.steps[0] = out.steps[1] = step;
  out.minima[0] = out.minima[1] = minimum;
}

static uint8_t q3_step(const uint8_t* s, int i) {
  int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
  return (uint8_t)(int8_t)((low | (s[8 + i % 4] >> (i / 4 * 2) & 3) << 4) - 32);
}

// Group g (32 columns) of a row as the file has it.
static void read_group(Type type, const uint8_t* row, int g, Group& out) {
  const Layout& l = layout(type);
  const uint8_t* b = row + (size_t)(g * 32 / l.file_block) * l.file_bytes;
  int j = g % 8;  // which eighth of a block of 256
  switch (type) {
    case Type::Q4_0:
    case Type::IQ4_NL:
    case Type::NF4:
    case Type::FP4:
      out.scale = half_at(b);
      nibbles(b + 2, out.codes);
      break;
    case Type::Q4_1:
      out.scale = half_at(b);
      out.minimum = half_at(b + 2);
      nibbles(b + 4, out.codes);
      break;
    case Type::Q5_0:
      out.scale = half_at(b);
      nibbles(b + 6, out.codes);
      fifth_bits(b + 2, out.codes);
      break;
    case Type::Q5_1:
      out.scale = half_at(b);
      out.minimum = half_at(b + 2);
      nibbles(b + 8, out.codes);
      fifth_bits(b + 4, out.codes);
      break;
    case Type::Q8_0:
      out.scale = half_at(b);
      memcpy(out.codes, b + 2, 32);
      break;
    case Type::Q8_MIN:
      out.scale = half_at(b);
      out.minimum = half_at(b + 2);
      memcpy(out.codes, b + 4, 32);
      break;
    case Type::NVFP4:
      memcpy(&out.factor, b, 4);
      out.factor *= 0.5f;  // the table holds twice the values
      memcpy(out.steps, b + 4, 2);
      nibbles(b + 6, out.codes);
      break;
    case Type::MXFP4:
      // 2^(e - 128), for the table holds twice the values; the two smallest are subnormal
      out.scale = b[0] > 1 ? (uint16_t)((b[0] - 1) << 7) : (uint16_t)(0x20 << b[0]);
      nibbles(b + 1, out.codes);
      break;
    case Type::Q2_K:
      out.scale = half_at(b + 80);
      out.minimum = half_at(b + 82);
      for (int i = 0; i < 32; i++) out.codes[i] = b[16 + j / 4 * 32 + i] >> (j % 4 * 2) & 3;
      for (int h = 0; h < 2; h++) {
        out.steps[h] = b[2 * j + h] & 15;
        out.minima[h] = b[2 * j + h] >> 4;
      }
      break;
    case Type::Q3_K:
      out.scale = half_at(b + 108);
      for (int i = 0; i < 32; i++)
        out.codes[i] = (b[32 + j / 4 * 32 + i] >> (j % 4 * 2) & 3) | (b[i] >> j & 1) << 2;
      for (int h = 0; h < 2; h++) out.steps[h] = q3_step(b + 96, 2 * j + h);
      break;
    case Type::Q4_K:
      out.scale = half_at(b);
      out.minimum = half_at(b + 2);
      six_bit_pair(b + 4, j, out);
      for (int i = 0; i < 32; i++) out.codes[i] = b[16 + j / 2 * 32 + i] >> (j % 2 * 4) & 15;
      break;
    case Type::Q5_K:
      out.scale = half_at(b);
      out.minimum = half_at(b + 2);
      six_bit_pair(b + 4, j, out);
      for (int i = 0; i < 32; i++)
        out.codes[i] = (b[48 + j / 2 * 32 + i] >> (j % 2 * 4) & 15) | (b[16 + i] >> j & 1) << 4;
      break;
    case Type::Q6_K:
      out.scale = half_at(b + 208);
      for (int i = 0; i < 32; i++)
        out.codes[i] = (b[j / 4 * 64 + j % 2 * 32 + i] >> (j % 4 / 2 * 4) & 15) |
                       (b[128 + j / 4 * 32 + i] >> (j % 4 * 2) & 3) << 4;
      for (int h = 0; h < 2; h++) out.steps[h] = b[192 + 2 * j + h];
      break;
    case Type::IQ4_XS: {
      out.scale = half_at(b);
      int step = (b[4 + j / 2] >> (j % 2 * 4) & 15) | (half_at(b + 2) >> (2 * j) & 3) << 4;
      out.steps[0] = out.steps[1] = (uint8_t)(int8_t)(step - 32);
      nibbles(b + 8 + 16 * j, out.codes);
      break;
    }
    default: break;
  }
}

// Where group g of a tile begins, and the header of its 256 columns.
static size_t group_at(const Layout& l, int g) {
  return (size_t)g * group_bytes(l) + (header_bytes(l) ? (g / 8 + 1) * header_bytes(l) : 0);
}
static size_t header_at(const Layout& l, int g) { return g / 8 * (8 * group_bytes(l) + header_bytes(l)); }

static uint32_t four(const uint8_t* p) {
  uint32_t word;
  memcpy(&word, p, 4);
  return word;
}

// The same group of 8 rows into a tile, four columns at a time.
static void write_groups(const Layout& l, uint8_t* tile, int g, const Group* rows) {
  uint8_t* at = tile + group_at(l, g);
  uint8_t* scales = at + 32 * l.bits;
  for (int lane = 0; lane < 8; lane++) {
    const Group& in = rows[lane];
    uint8_t* own = at + lane * 4;
    if (l.bits == 8) {
      for (int quad = 0; quad < 8; quad++) memcpy(own + quad * 32, in.codes + quad * 4, 4);
    } else {
      for (int pair = 0; pair < 4; pair++) {
        uint32_t low = four(in.codes + pair * 8) & 0x0f0f0f0f, high = four(in.codes + pair * 8 + 4) & 0x0f0f0f0f;
        uint32_t both = low | high << 4;
        memcpy(own + pair * 32, &both, 4);
      }
    }
    if (l.bits == 6)
      for (int half = 0; half < 2; half++) {
        uint32_t high = 0;
        for (int quad = 0; quad < 4; quad++) high |= (four(in.codes + half * 16 + quad * 4) >> 4 & 0x03030303) << (2 * quad);
        memcpy(own + 128 + half * 32, &high, 4);
      }
    switch (l.scales) {
      case Scales::NONE:
      case Scales::OCTETS:
      case Scales::FLOATS_128: break;
      case Scales::HALF_MIN: memcpy(scales + 16 + 2 * lane, &in.minimum, 2); [[fallthrough]];
      case Scales::HALF:
      case Scales::BFLOAT: memcpy(scales + 2 * lane, &in.scale, 2); break;
      case Scales::FLOATS_16:
        scales[lane] = in.steps[0];
        scales[8 + lane] = in.steps[1];
        break;
      case Scales::STEPS_32_MIN:
        scales[lane] = in.steps[0];
        scales[8 + lane] = in.minima[0];
        break;
      case Scales::STEPS_16_MIN: memcpy(scales + 16 + 2 * lane, in.minima, 2); [[fallthrough]];
      case Scales::STEPS_16: memcpy(scales + 2 * lane, in.steps, 2); break;
    }
    if (header_bytes(l) && g % 8 == 0) {
      uint8_t* header = tile + header_at(l, g);
      if (l.scales == Scales::FLOATS_16) {
        memcpy(header + 4 * lane, &in.factor, 4);
        continue;
      }
      memcpy(header + 2 * lane, &in.scale, 2);
      if (header_bytes(l) == 32) memcpy(header + 16 + 2 * lane, &in.minimum, 2);
    }
  }
}

// In the file, 32 columns are a float and their bytes; 128 columns have the same float.
static void pack_bytes(uint8_t* tile, int columns, int lane, const uint8_t* row) {
  for (int c = 0; c < columns; c += 32, row += 36) {
    uint8_t* block = tile + (size_t)(c / 128) * (32 + 128 * 8);
    memcpy(block + 4 * lane, row, 4);
    for (int i = 0; i < 32; i++) block[32 + (c % 128 + i) / 4 * 32 + lane * 4 + i % 4] = row[4 + i];
  }
}

static std::vector<uint8_t> octet_tables[(int)Type::COUNT];

const uint8_t* octet_table(Type type) {
  const auto& table = octet_tables[(int)type];
  return table.empty() ? nullptr : table.data();
}

void set_octet_table(Type type, const uint8_t* bytes, size_t count) {
  octet_tables[(int)type].assign(bytes, bytes + count);
}

static void pack_octets(Type type, uint8_t* tile, int columns, int lane, const uint8_t* row) {
  const Layout& l = layout(type);
  for (int g = 0; g < columns / 32; g++) {
    const uint8_t* block = row + (size_t)(g / 8) * l.file_bytes;
    uint16_t d = octet_half(type, block);
    memcpy(tile + header_at(l, g) + 2 * lane, &d, 2);
    write_octets(type, block, g % 8, lane, tile + group_at(l, g));
  }
}

template <Type type> static void unpack_octets(const uint8_t* tile, int columns, int lane, float* out) {
  const Layout& l = layout(type);
  const int8_t* table = (const int8_t*)octet_table(type);
  Octets octets;
  for (int g = 0; g < columns / 32; g++) {
    float d = f16_to_float(half_at(tile + header_at(l, g) + 2 * lane)) * octet_unit(type);
    read_octets<type>(tile + group_at(l, g), octets);
    for (int c = 0; c < 32; c++, out++) {
      int at = c / 8 * 8 + octet_row(lane);
      int code = of_fours(type) ? table[octets.index[2 * at + c / 4 % 2] * 4 + c % 4] : table[octets.index[at] * 8 + c % 8];
      if (octets.signs[at] >> (c % 8) & 1) code = has_shift(type) ? code - 2 : -code;
      *out = d * octets.steps[2 * lane + c / 16] * (float)code;
    }
  }
}

void pack_rows(Matrix& m, int which, int first, const uint8_t* rows, size_t row_stride, int n) {
  const Layout& l = layout(m.type);
  for (int row = 0; row < n; row += 8) {
    uint8_t* tile = const_cast<uint8_t*>(m.tile(which, (first + row) / 8));
    int lanes = n - row < 8 ? n - row : 8;
    if (is_float(m.type)) {
      int size = l.bits / 8;
      if (lanes < 8) memset(tile, 0, m.tile_size());
      for (int lane = 0; lane < lanes; lane++) {
        const uint8_t* from = rows + (row + lane) * row_stride;
        if (m.type == Type::F8_E4M3) pack_bytes(tile, m.columns, lane, from);
        else for (int c = 0; c < m.columns; c++) memcpy(tile + ((size_t)c * 8 + lane) * size, from + (size_t)c * size, size);
      }
      continue;
    }
    if (l.scales == Scales::OCTETS) {
      if (lanes < 8) memset(tile, 0, m.tile_size());
      for (int lane = 0; lane < lanes; lane++) pack_octets(m.type, tile, m.columns, lane, rows + (row + lane) * row_stride);
      continue;
    }
    Group groups[8] = {};  // rows that are not there stay zero
    for (int g = 0; g < m.columns / 32; g++) {
      for (int lane = 0; lane < lanes; lane++) read_group(m.type, rows + (row + lane) * row_stride, g, groups[lane]);
      write_groups(l, tile, g, groups);
    }
  }
}

void unpack_row(const Matrix& m, int which, int row, float* out) {
  const Layout& l = layout(m.type);
  const uint8_t* tile = m.tile(which, row / 8);
  int lane = row % 8;
  if (m.type == Type::F8_E4M3) {
    for (int c = 0; c < m.columns; c++) {
      const uint8_t* block = tile + (size_t)(c / 128) * (32 + 128 * 8);
      float factor;
      memcpy(&factor, block + 4 * lane, 4);
      uint8_t byte = block[32 + c % 128 / 4 * 32 + lane * 4 + c % 4];
      float size = factor * e4m3_to_float(byte & 127);
      out[c] = byte & 128 ? -size : size;
    }
    return;
  }
  switch (m.type) {
#define TRILENS_OCTETS(type) \
  case Type::type: return unpack_octets<Type::type>(tile, m.columns, lane, out)
    TRILENS_OCTETS(IQ1_S);
    TRILENS_OCTETS(IQ1_M);
    TRILENS_OCTETS(IQ2_XXS);
    TRILENS_OCTETS(IQ2_XS);
    TRILENS_OCTETS(IQ2_S);
    TRILENS_OCTETS(IQ3_XXS);
    TRILENS_OCTETS(IQ3_S);
#undef TRILENS_OCTETS
    default: break;
  }
  if (is_float(m.type)) {
    for (int c = 0; c < m.columns; c++) {
      const uint8_t* at = tile + ((size_t)c * 8 + lane) * (l.bits / 8);
      if (m.type == Type::F32) memcpy(out + c, at, 4);
      else out[c] = m.type == Type::F16 ? f16_to_float(half_at(at)) : bf16_to_float(half_at(at));
    }
    return;
  }
  for (int g = 0; g < m.columns / 32; g++) {
    const uint8_t* at = tile + group_at(l, g);
    const uint8_t* scales = at + 32 * l.bits;
    float scale[2], minimum[2] = {0, 0};
    switch (l.scales) {
      case Scales::HALF: scale[0] = scale[1] = f16_to_float(half_at(scales + 2 * lane)); break;
      case Scales::BFLOAT: scale[0] = scale[1] = bf16_to_float(half_at(scales + 2 * lane)); break;
      case Scales::HALF_MIN:
        scale[0] = scale[1] = f16_to_float(half_at(scales + 2 * lane));
        minimum[0] = minimum[1] = f16_to_float(half_at(scales + 16 + 2 * lane));
        break;
      case Scales::FLOATS_16:
        for (int h = 0; h < 2; h++) {
          float factor;
          memcpy(&factor, tile + header_at(l, g) + 4 * lane, 4);
          scale[h] = factor * e4m3_to_float(scales[8 * h + lane]);
        }
        break;
      default: {
        const uint8_t* header = tile + header_at(l, g);
        float d = f16_to_float(half_at(header + 2 * lane));
        for (int h = 0; h < 2; h++) {
          if (l.scales == Scales::STEPS_32_MIN) {
            scale[h] = d * scales[lane];
            minimum[h] = -(f16_to_float(half_at(header + 16 + 2 * lane)) * scales[8 + lane]);
          } else if (l.scales == Scales::STEPS_16_MIN) {
            scale[h] = d * (int8_t)scales[2 * lane + h];
            minimum[h] = -(f16_to_float(half_at(header + 16 + 2 * lane)) * scales[16 + 2 * lane + h]);
          } else {
            scale[h] = d * (int8_t)scales[2 * lane + h];
          }
        }
      }
    }
    for (int column = 0; column < 32; column++) {
      int quad = column / 4, byte = lane * 4 + column % 4, code;
      if (l.bits == 8) {
        code = (int8_t)at[quad * 32 + byte];
      } else {
        code = at[quad / 2 * 32 + byte] >> (quad % 2 * 4) & 15;
        if (l.bits == 6) code |= (at[128 + quad / 4 * 32 + byte] >> (quad % 4 * 2) & 3) << 4;
        if (l.table) code = l.table[code];
      }
      out[g * 32 + column] = scale[column / 16] * (float)(code - l.offset) + minimum[column / 16];
    }
  }
}

}  // namespace trilens
