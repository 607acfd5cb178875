// How fast this processor multiplies and adds, and how fast it reads memory, at the very most.
//
// It knows nothing but registers and one long array. Both functions give what they computed, so
// that no compiler can leave the work out.

#include "native.h"

using namespace native;

namespace {

// Enough sums at a time that none waits for its own last addition.
constexpr int SUMS = REGISTERS >= 32 ? 24 : 12;

float multiply(int64_t rounds) {
    Floats sums[SUMS];
    for (int i = 0; i < SUMS; ++i) sums[i] = all(1.0f + 0.001f * i);
    const Floats factor = all(0.9999f), more = all(0.0001f);
    for (int64_t round = 0; round < rounds; ++round)
        for (int i = 0; i < SUMS; ++i) sums[i] = sums[i] * factor + more;
    Floats total = all(0);
    for (int i = 0; i < SUMS; ++i) total += sums[i];
    return sum(total);
}

float read(const float* from, int64_t count) {
    Floats sums[8] = {};
    int64_t at = 0;
    for (; at + 8 * LANES <= count; at += 8 * LANES) {
        for (int i = 0; i < 8; ++i) {
            __builtin_prefetch(from + at + i * LANES + 1024);
            sums[i] += load(from + at + i * LANES);
        }
    }
    Floats total = all(0);
    for (int i = 0; i < 8; ++i) total += sums[i];
    return sum(total);
}

}  // namespace

// So many rounds on each thread; the number of floating-point operations in all.
extern "C" double limits_multiply(int64_t rounds, int threads, float* result) {
    together(threads, [&](int thread) { result[thread] = multiply(rounds); });
    return 2.0 * LANES * SUMS * double(rounds) * threads;
}

// Read an array once, each thread a part of it.
extern "C" void limits_read(const float* from, int64_t count, int threads, float* result) {
    together(threads, [&](int thread) {
        const Share mine(count, thread, threads, 4096);
        result[thread] = read(from + mine.start, mine.stop - mine.start);
    });
}
