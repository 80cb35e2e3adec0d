// Stores that go past the caches.
#pragma once

#include <cstddef>
#include <cstring>

#include "../numerics.h"

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace torchopt {
namespace TORCHOPT_ISA {

#if defined(__AVX512F__)
using Pack = __m512i;
TORCHOPT_FN void store_past(Pack* to, const Pack* from) { _mm512_stream_si512(to, *from); }
#elif defined(__AVX2__)
using Pack = __m256i;
TORCHOPT_FN void store_past(Pack* to, const Pack* from) { _mm256_stream_si256(to, *from); }
#elif defined(__SSE2__)
using Pack = __m128i;
TORCHOPT_FN void store_past(Pack* to, const Pack* from) { _mm_stream_si128(to, *from); }
#else
using Pack = char;
TORCHOPT_FN void store_past(Pack* to, const Pack* from) { *to = *from; }
#endif

// Copies results to memory that is not read soon. Writing a whole line past the caches saves
// fetching the line first. Both pointers are aligned to kStreamAlignment.
TORCHOPT_FN void stream(void* to, const void* from, size_t bytes) {
  const size_t packs = bytes / sizeof(Pack), done = packs * sizeof(Pack);
  for (size_t i = 0; i < packs; ++i)
    store_past(static_cast<Pack*>(to) + i, static_cast<const Pack*>(from) + i);
  memcpy(static_cast<char*>(to) + done, static_cast<const char*>(from) + done, bytes - done);
}

// Makes streamed data visible to other threads.
TORCHOPT_FN void end_streaming() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

}  // namespace TORCHOPT_ISA
}  // namespace torchopt
