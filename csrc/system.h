// What the operating system and the processor give. No other file here calls the system or asks what it is.
#pragma once
#include <cstddef>

namespace trilens {

long process_number();  // a child that was forked from a process has another

// Asks for huge pages behind this memory. Advice: where it is not taken, nothing else changes.
void want_huge_pages(void* memory, size_t bytes);

void pause_briefly();  // between two looks of a thread that waits

}  // namespace trilens
