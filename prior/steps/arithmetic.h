// What a step computes: products with matrices of several kinds, norms, activations, attention.
//
// Functions of arrays; it knows no layers. Every number is made by the same instructions, whichever
// thread makes it and however many items there are.
//
// Letters: B items, D width of a head, N rows and K columns of a matrix.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "native.h"

using namespace native;

extern "C" {

enum Kind : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

// [N, K], row by row. Of int8, a row's numbers are `scale` times those kept.
struct Matrix {
    const void* numbers;
    const float* scale;  // [N], or null
    const float* bias;   // [N], or null
    int32_t rows, columns, kind;
};
}

namespace {

typedef double Doubles __attribute__((vector_size(4 * LANES)));
typedef int64_t Longs __attribute__((vector_size(4 * LANES)));

// LANES small numbers as wide ones. Compilers make many instructions of what is one here.
#if defined(__AVX512F__)
inline Ints widened(const int8_t* from) {
    return (Ints)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)from));
}
inline Ints widened(const uint16_t* from) {
    return (Ints)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from));
}
#elif defined(__AVX2__)
inline Ints widened(const int8_t* from) {
    return (Ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from));
}
inline Ints widened(const uint16_t* from) {
    return (Ints)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)from));
}
#else
template <class Kept> inline Ints widened(const Kept* from) {
    Ints lanes;
    for (int i = 0; i < LANES; ++i) lanes[i] = from[i];
    return lanes;
}
#endif

// What numbers are kept as; how one and how LANES of them become floats.
struct Float32 {
    typedef float Kept;
    static Floats lanes(const float* from) { return load(from); }
    static float one(float value) { return value; }
    static float keep(float value) { return value; }
};

struct BFloat16 {
    typedef uint16_t Kept;
    static Floats lanes(const uint16_t* from) {
        return (Floats)(widened(from) << 16);
    }
    static float one(uint16_t kept) {
        const uint32_t bits = (uint32_t)kept << 16;
        float value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
    }
    static uint16_t keep(float value) {  // to the nearest, the even one of two
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        if (value != value) return 0x7fc0;
        return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }
};

struct Int8 {
    typedef int8_t Kept;
    static Floats lanes(const int8_t* from) {
        return __builtin_convertvector(widened(from), Floats);
    }
    static float one(int8_t kept) { return kept; }
};

// e^x by 2^n e^r with r at most log(2)/2, and e^r by its series, whose rest is below rounding.
template <class Lanes, class Whole, class Number, int TERMS, int BITS, int BIAS>
inline Lanes exponential(Lanes x) {
    const Number most = BITS == 23 ? 88 : 708;
    const Lanes top = Lanes{} + most;
    x = x > top ? top : x;
    x = x < -top ? -top : x;
    const Lanes turns = x * (Number)1.44269504088896340736;
    const Whole n = __builtin_convertvector(turns + (turns < 0 ? Lanes{} - (Number)0.5
                                                               : Lanes{} + (Number)0.5), Whole);
    const Lanes whole = __builtin_convertvector(n, Lanes);
    // log(2) in two parts, the first of so few bits that its product is exact.
    const Number high = BITS == 23 ? (Number)0.693359375 : (Number)0.693147180369123816490;
    const Number low = BITS == 23 ? (Number)-2.12194440e-4 : (Number)1.90821492927058770002e-10;
    const Lanes r = x - whole * high - whole * low;
    Number factorial[TERMS + 1] = {1};
    for (int k = 1; k <= TERMS; ++k) factorial[k] = factorial[k - 1] * k;
    Lanes series = Lanes{} + 1 / factorial[TERMS];
    for (int k = TERMS - 1; k >= 0; --k) series = series * r + 1 / factorial[k];
    return series * (Lanes)((n + BIAS) << BITS);
}

inline Floats exponential(Floats x) { return exponential<Floats, Ints, float, 7, 23, 127>(x); }
inline Doubles exponential(Doubles x) {
    return exponential<Doubles, Longs, double, 13, 52, 1023>(x);
}

// The last few of a row, with zeros behind them. All numbers go through the same instructions, so
// that a result does not depend on who computes it.
template <class Format> inline Floats rest(const typename Format::Kept* from, int count) {
    typename Format::Kept part[LANES] = {};
    std::memcpy(part, from, count * sizeof *from);
    return Format::lanes(part);
}

inline Floats quick_gelu(Floats x) { return x / (1 + exponential(x * -1.702f)); }

// x sigmoid(1.702 x) in place.
void quick_gelu(float* x, int64_t count) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store(x + i, quick_gelu(load(x + i)));
    if (i < count) {
        const Floats last = quick_gelu(rest<Float32>(x + i, count - i));
        std::memcpy(x + i, &last, (count - i) * sizeof *x);
    }
}

void normalise(const float* x, const float* gain, const float* bias, float epsilon, int width,
               float* out) {
    Floats total{}, squares{};
    float rest = 0, others = 0;
    int i = 0;
    for (; i + LANES <= width; i += LANES) total += load(x + i);
    for (; i < width; ++i) rest += x[i];
    const float mean = (sum(total) + rest) / width;
    for (i = 0; i + LANES <= width; i += LANES) {
        const Floats off = load(x + i) - mean;
        squares += off * off;
    }
    for (; i < width; ++i) others += (x[i] - mean) * (x[i] - mean);
    const float factor = 1 / std::sqrt((sum(squares) + others) / width + epsilon);
    for (i = 0; i + LANES <= width; i += LANES)
        store(out + i, (load(x + i) - mean) * factor * load(gain + i) + load(bias + i));
    for (; i < width; ++i) out[i] = (x[i] - mean) * factor * gain[i] + bias[i];
}

// ROWS rows from `row` on times ITEMS vectors [K], one behind the other; give(item, row, value).
template <class Format, int ROWS, int ITEMS, class Give>
inline void product(const Matrix& m, int64_t row, const float* x, Give give) {
    typedef typename Format::Kept Kept;
    constexpr int LINE = 64 / sizeof(Kept);
    const int columns = m.columns;
    const auto* numbers = (const Kept*)m.numbers + row * columns;
    const auto* next = numbers + (int64_t)ROWS * columns;
    Floats sums[ROWS][ITEMS] = {};
    int k = 0;
    for (; k + LANES <= columns; k += LANES) {
        // Rows are short, so that the processor does not see by itself that memory is read on.
        if (k % LINE == 0)
            for (int r = 0; r < ROWS; ++r) __builtin_prefetch(next + (int64_t)r * columns + k);
        Floats w[ROWS];
        for (int r = 0; r < ROWS; ++r) w[r] = Format::lanes(numbers + (int64_t)r * columns + k);
        for (int b = 0; b < ITEMS; ++b) {
            const Floats lanes = load(x + (int64_t)b * columns + k);
            for (int r = 0; r < ROWS; ++r) sums[r][b] += w[r] * lanes;
        }
    }
    if (k < columns)
        for (int b = 0; b < ITEMS; ++b) {
            const Floats lanes = rest<Float32>(x + (int64_t)b * columns + k, columns - k);
            for (int r = 0; r < ROWS; ++r)
                sums[r][b] += rest<Format>(numbers + (int64_t)r * columns + k, columns - k) * lanes;
        }
    for (int r = 0; r < ROWS; ++r)
        for (int b = 0; b < ITEMS; ++b) {
            float value = sum(sums[r][b]);
            if (m.scale) value *= m.scale[row + r];
            if (m.bias) value += m.bias[row + r];
            give(b, row + r, value);
        }
}

// Rows that are computed at a time for so many items: as many as there are registers to sum in.
constexpr int rows_for(int items) {
    return REGISTERS == 32 ? (items == 8 ? 3 : items == 4 ? 6 : 8) : (items == 8 ? 1 : 8 / items);
}
constexpr int CHUNK = 24;  // a multiple of them all

// Rows [start, stop) times ITEMS vectors.
template <class Format, int ITEMS, class Give>
void rows_times(const Matrix& m, int64_t start, int64_t stop, const float* x, Give give) {
    constexpr int ROWS = rows_for(ITEMS);
    for (; start + ROWS <= stop; start += ROWS) product<Format, ROWS, ITEMS>(m, start, x, give);
    for (; start < stop; ++start) product<Format, 1, ITEMS>(m, start, x, give);
}

// Chunk by chunk, so that all items find its rows in a cache.
template <class Format, class Give>
void multiply(const Matrix& m, const float* x, int batch, Share share, Give give) {
    for (int64_t start = share.start; start < share.stop; start += CHUNK) {
        const int64_t stop = std::min<int64_t>(start + CHUNK, share.stop);
        int b = 0;
        auto items = [&](auto count) {
            constexpr int ITEMS = decltype(count)::value;
            for (; b + ITEMS <= batch; b += ITEMS)
                rows_times<Format, ITEMS>(
                    m, start, stop, x + (int64_t)b * m.columns,
                    [&](int item, int64_t row, float value) { give(b + item, row, value); });
        };
        items(std::integral_constant<int, 8>());
        items(std::integral_constant<int, 4>());
        items(std::integral_constant<int, 2>());
        items(std::integral_constant<int, 1>());
    }
}

// A thread's share of the rows of `m` times vectors [B, K]: give(item, row, value).
template <class Give>
void multiply(const Matrix& m, const float* x, int batch, int thread, int threads, Give give) {
    const Share share(m.rows, thread, threads, CHUNK);
    if (m.kind == INT8) return multiply<Int8>(m, x, batch, share, give);
    if (m.kind == BFLOAT16) return multiply<BFloat16>(m, x, batch, share, give);
    multiply<Float32>(m, x, batch, share, give);
}

// Add a row of numbers to x.
void add_row(float* x, const void* numbers, int64_t row, int width, int kind) {
    if (kind == BFLOAT16) {
        const auto* from = (const uint16_t*)numbers + row * width;
        for (int i = 0; i < width; ++i) x[i] += BFloat16::one(from[i]);
    } else {
        const auto* from = (const float*)numbers + row * width;
        for (int i = 0; i < width; ++i) x[i] += from[i];
    }
}

// One query [D] against slots [start, stop) -> [D]; zeros if it sees nothing.
template <class Format>
void attend(const float* query, const typename Format::Kept* keys,
            const typename Format::Kept* values, int start, int stop, int width,
            const uint8_t* there, float* scores, float* out) {
    std::fill(out, out + width, 0.0f);
    const float factor = 1 / std::sqrt((float)width);
    float highest = -std::numeric_limits<float>::infinity();
    for (int c = start; c < stop; ++c) {
        if (there && !there[c]) continue;
        const auto* key = keys + (int64_t)c * width;
        Floats total{}, second{};
        int d = 0;
        for (; d + 2 * LANES <= width; d += 2 * LANES) {
            total += Format::lanes(key + d) * load(query + d);
            second += Format::lanes(key + d + LANES) * load(query + d + LANES);
        }
        for (; d + LANES <= width; d += LANES) total += Format::lanes(key + d) * load(query + d);
        float score = sum(total + second);
        for (; d < width; ++d) score += Format::one(key[d]) * query[d];
        scores[c - start] = score * factor;
        highest = std::max(highest, scores[c - start]);
    }
    float total = 0;
    for (int c = start; c < stop; ++c) {
        if (there && !there[c]) continue;
        const float weight = std::exp(scores[c - start] - highest);
        const auto* value = values + (int64_t)c * width;
        total += weight;
        int d = 0;
        for (; d + LANES <= width; d += LANES)
            store(out + d, load(out + d) + weight * Format::lanes(value + d));
        for (; d < width; ++d) out[d] += weight * Format::one(value[d]);
    }
    if (total > 0)
        for (int d = 0; d < width; ++d) out[d] /= total;
}

}  // namespace
