// What the operating system and the processor give. No other file here calls the system or asks what it is.
#pragma once
#include <cstddef>

namespace trilens {

long process_number();  // a child that was forked from a process has another

// Asks for huge pages behind this memory. Advice: where it is not taken, nothing else changes.
void want_huge_pages(void* memory, size_t bytes);

// Whether the processor has these, and the system keeps their registers. Not the compiler's builtin for it, which zig's
// runtime answers with no.
bool has_avx2();    // with FMA and F16C
bool has_avx512();  // F, BW, VL, DQ and VNNI, and all of the above
bool has_dot_products();  // ARM's, of bytes

void pause_briefly();  // between two looks of a thread that waits

}  // namespace trilens
