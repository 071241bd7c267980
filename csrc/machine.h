// What this machine's memory gives, measured with the engine's own threads.
#pragma once
#include <cstddef>

namespace trilens {

double memory_read_bytes_per_second(int threads, size_t bytes, int repeats);

}  // namespace trilens
