// Float rows to ggml's k-quants: for `trilens quantise`. Each block's scales are a weighted least-squares fit.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace trilens {

// Values of a block and its bytes; {0, 0} for a type that is not written here.
struct BlockSize {
  int values, bytes;
};
BlockSize encoded_block(const std::string& type);

// `count` values, a multiple of the block's, to `out`. Returns false for values that are not finite.
bool encode(const std::string& type, const float* x, size_t count, uint8_t* out);

}  // namespace trilens
