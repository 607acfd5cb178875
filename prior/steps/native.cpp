// One-token steps of a prior, many in a row: embedding, layers over caches, logits, the draw.
//
// At one item a step reads every weight once and computes next to nothing, so its speed is that of
// memory; this file exists to come near it. It knows no patterns: for every position it is told
// into which slot of a layer's cache the new key goes and which slots the query sees. It owns
// nothing: weights and caches are where PyTorch keeps them.
//
// Letters: B items, W width, H heads, D width of a head, C slots of a cache, V tokens, N rows and
// K columns of a matrix.

#include <algorithm>
#include <cmath>
#include <limits>

#include "native.h"

using namespace native;

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

}  // namespace

extern "C" {

enum Kind : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

// [N, K], row by row. Of int8, a row's numbers are `scale` times those kept.
struct Matrix {
    const void* numbers;
    const float* scale;  // [N], or null
    const float* bias;   // [N], or null
    int32_t rows, columns, kind;
};

struct Layer {
    const float* attention_gain;  // [W], of the norm before attention
    const float* attention_bias;
    const float* mlp_gain;
    const float* mlp_bias;
    Matrix query;  // [3 H D, W] queries, keys, values; [H D, W] of a layer that reads a memory
    Matrix out;    // [W, H D]
    Matrix up;
    Matrix down;
    void* keys;    // [B, H, C, D]
    void* values;  // [B, H, C, D]
    const int32_t* slot;    // [positions] where a new key goes; null for a memory
    const int32_t* start;   // [positions] the first slot that a query sees; null for a memory
    const int32_t* stop;    // [positions] behind the last
    const uint8_t* there;   // [B, C] of a memory: 0 where there is nothing to see; null: all is
    int32_t slots;          // C
};

struct Model {
    const Layer* layers;
    Matrix embedding;  // [V, W]
    Matrix positions;  // [positions, W]
    Matrix head;       // [V, W]
    const void* told;  // [B, told_stride] rows of W behind one another, or null
    int64_t told_stride;
    float scale;  // of residual branches
    float epsilon;
    int32_t depth, width, heads, head_width, mlp_width, batch, kind;
    int32_t prefix;       // positions ahead of the codes
    int32_t told_output;  // add what is told to the outputs too
    int32_t seen;         // most slots that a query sees
};

struct Drawing {
    double temperature, top_p;
    int32_t top_k;
};

}

namespace {

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

// ROWS rows from `row` on times ITEMS vectors [K], `stride` apart; give(item, row, value).
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

// What the threads of a call share, [B, ...] each.
struct Shared {
    std::vector<float> x, inner, query, mixed, hidden;
    Shared(const Model& m)
        : x(m.batch * m.width), inner(x.size()), query(3 * m.batch * m.heads * m.head_width),
          mixed(m.batch * m.heads * m.head_width), hidden(m.batch * m.mlp_width) {}
};

// One of the threads that compute steps together.
struct Worker {
    const Model& m;
    Shared& shared;
    Barrier& barrier;
    const int thread, threads;
    std::vector<float> normal, scores;

    Worker(const Model& m, Shared& shared, Barrier& barrier, int thread, int threads)
        : m(m), shared(shared), barrier(barrier), thread(thread), threads(threads),
          normal(m.batch * m.width), scores(m.seen) {}

    template <class Give> void share_of(const Matrix& matrix, const float* x, Give give) {
        multiply(matrix, x, m.batch, thread, threads, give);
    }

    // Every thread norms all items for itself: that costs less than to wait for one another.
    const float* normed(const std::vector<float>& x, const float* gain, const float* bias) {
        for (int b = 0; b < m.batch; ++b)
            normalise(&x[b * m.width], gain, bias, m.epsilon, m.width, &normal[b * m.width]);
        return normal.data();
    }

    template <class Format> void mix(const Layer& layer, int64_t position) {
        typedef typename Format::Kept Kept;
        const int width = m.head_width, all = m.heads * width;
        const int stride = layer.slot ? 3 * all : all;
        const int start = layer.start ? layer.start[position] : 0;
        const int stop = layer.stop ? layer.stop[position] : layer.slots;
        for (int pair = thread; pair < m.batch * m.heads; pair += threads) {
            const int b = pair / m.heads, h = pair % m.heads;
            const float* query = &shared.query[b * stride + h * width];
            Kept* keys = (Kept*)layer.keys + (int64_t)pair * layer.slots * width;
            Kept* values = (Kept*)layer.values + (int64_t)pair * layer.slots * width;
            if (layer.slot) {
                const int64_t at = (int64_t)layer.slot[position] * width;
                for (int d = 0; d < width; ++d) {
                    keys[at + d] = Format::keep(query[all + d]);
                    values[at + d] = Format::keep(query[2 * all + d]);
                }
            }
            const uint8_t* there = layer.there ? layer.there + (int64_t)b * layer.slots : nullptr;
            attend<Format>(query, keys, values, start, stop, width, there, scores.data(),
                           &shared.mixed[b * all + h * width]);
        }
    }

    void run(const Layer& layer, int64_t position) {
        const int width = m.width;
        auto& s = shared;
        const int columns = layer.query.rows;
        share_of(layer.query, normed(s.x, layer.attention_gain, layer.attention_bias),
                 [&](int b, int64_t row, float value) { s.query[b * columns + row] = value; });
        barrier.wait();
        if (m.kind == BFLOAT16)
            mix<BFloat16>(layer, position);
        else
            mix<Float32>(layer, position);
        barrier.wait();
        share_of(layer.out, s.mixed.data(), [&](int b, int64_t row, float value) {
            s.inner[b * width + row] = s.x[b * width + row] + value;
        });
        barrier.wait();
        share_of(layer.up, normed(s.inner, layer.mlp_gain, layer.mlp_bias),
                 [&](int b, int64_t row, float value) { s.hidden[b * m.mlp_width + row] = value; });
        const Share rows(layer.up.rows, thread, threads, CHUNK);
        for (int b = 0; b < m.batch; ++b)
            quick_gelu(&s.hidden[b * m.mlp_width + rows.start], rows.stop - rows.start);
        barrier.wait();
        share_of(layer.down, s.hidden.data(), [&](int b, int64_t row, float value) {
            float& x = s.x[b * width + row];
            x += m.scale * (s.inner[b * width + row] + value - x);
        });
        barrier.wait();
    }

    void tell(int item, int64_t position) {
        if (!m.told) return;
        const int64_t size = m.kind == BFLOAT16 ? 2 : 4;
        const char* rows = (const char*)m.told + item * m.told_stride * size;
        add_row(&shared.x[item * m.width], rows, position, m.width, m.kind);
    }

    // Tokens [B] of the position before `position` -> logits [B, V] of the one at it.
    void step(const int64_t* tokens, int64_t position, float* logits) {
        if (thread == 0)
            for (int b = 0; b < m.batch; ++b) {
                float* x = &shared.x[b * m.width];
                std::fill(x, x + m.width, 0.0f);
                add_row(x, m.embedding.numbers, tokens[b], m.width, m.embedding.kind);
                add_row(x, m.positions.numbers, m.prefix + position, m.width, m.positions.kind);
                tell(b, position);
            }
        barrier.wait();
        for (int layer = 0; layer < m.depth; ++layer) run(m.layers[layer], m.prefix + position);
        if (m.told && m.told_output) {
            if (thread == 0)
                for (int b = 0; b < m.batch; ++b) tell(b, position);
            barrier.wait();
        }
        share_of(m.head, shared.x.data(), [&](int b, int64_t row, float value) {
            logits[(int64_t)b * m.head.rows + row] = value;
        });
        barrier.wait();
    }
};

// Drop what drawing leaves out: -inf.
void filter(std::vector<double>& logits, const Drawing& drawing) {
    const double none = -std::numeric_limits<double>::infinity();
    const int64_t count = logits.size();
    std::vector<double> sorted;
    if (0 < drawing.top_k && drawing.top_k < count) {
        sorted = logits;
        std::nth_element(sorted.begin(), sorted.begin() + drawing.top_k - 1, sorted.end(),
                         std::greater<double>());
        const double least = sorted[drawing.top_k - 1];
        for (double& logit : logits)
            if (logit < least) logit = none;
    }
    if (0 < drawing.top_p && drawing.top_p < 1) {
        sorted = logits;
        std::sort(sorted.begin(), sorted.end(), std::greater<double>());
        double total = 0, likelier = 0;
        for (double logit : sorted) total += std::exp(logit - sorted[0]);
        int64_t kept = 0;
        for (; kept < count && likelier / total < drawing.top_p; ++kept)
            likelier += std::exp(sorted[kept] - sorted[0]);
        const double least = sorted[std::max<int64_t>(kept - 1, 0)];
        for (double& logit : logits)
            if (logit < least) logit = none;
    }
}

// The first code whose cumulative probability exceeds the uniform.
int64_t draw(const float* logits, int64_t count, const Drawing& drawing, double uniform) {
    constexpr int WIDE = LANES / 2;
    std::vector<double> scaled((count + WIDE - 1) / WIDE * WIDE,
                               -std::numeric_limits<double>::infinity());
    for (int64_t i = 0; i < count; ++i) scaled[i] = logits[i] / drawing.temperature;
    if (drawing.top_k || drawing.top_p > 0) {
        const int64_t padded = scaled.size();
        scaled.resize(count);
        filter(scaled, drawing);
        scaled.resize(padded, -std::numeric_limits<double>::infinity());
    }
    const double highest = *std::max_element(scaled.begin(), scaled.end());
    for (size_t i = 0; i < scaled.size(); i += WIDE) {
        Doubles lanes, chances;
        std::memcpy(&lanes, &scaled[i], sizeof lanes);
        chances = exponential(lanes - highest);
        const Doubles gone = Doubles{} - std::numeric_limits<double>::infinity();
        chances = lanes == gone ? Doubles{} : chances;
        std::memcpy(&scaled[i], &chances, sizeof chances);
    }
    double total = 0, rising = 0;
    for (int64_t i = 0; i < count; ++i) total += scaled[i];
    int64_t last = 0;
    for (int64_t i = 0; i < count; ++i) {
        if (scaled[i] == 0) continue;
        rising += scaled[i];
        last = i;
        if (rising / total > uniform) return i;
    }
    return last;
}

bool finite(const float* logits, int64_t count) {
    Floats nothing{};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) nothing += load(logits + i) * 0;  // NaN unless finite
    float rest = sum(nothing);
    for (; i < count; ++i) rest += logits[i] * 0;
    return rest == 0;
}

}  // namespace

extern "C" {

// Bytes of each struct, for whoever fills them from outside to compare.
void jukebox_sizes(int32_t* sizes) {
    sizes[0] = sizeof(Matrix), sizes[1] = sizeof(Layer), sizes[2] = sizeof(Model);
    sizes[3] = sizeof(Drawing);
}

// Logits [B, V] of the code at `position` from the tokens [B] before it.
void jukebox_step(const Model* model, const int64_t* tokens, int64_t position, float* logits,
                  int32_t threads) {
    Shared shared(*model);
    Barrier barrier(threads);
    together(threads, [&](int thread) {
        Worker(*model, shared, barrier, thread, threads).step(tokens, position, logits);
    });
}

// `count` steps from `position` on, each drawn with its uniforms; of the likeliest without any.
//
// tokens [B] go in; drawn [B, count] come out. uniforms [B, uniforms_stride] or null; logits [B, V]
// is room to work in. Returns how many steps were made: fewer than `count` where the logits of the
// next were not finite.
int64_t jukebox_generate(const Model* model, const int64_t* tokens, int64_t position, int64_t count,
                         const double* uniforms, int64_t uniforms_stride, const Drawing* drawing,
                         float* logits, int64_t* drawn, int32_t threads) {
    const int batch = model->batch;
    const int64_t size = model->head.rows;
    std::vector<int64_t> current(tokens, tokens + batch);
    Shared shared(*model);
    Barrier barrier(threads);
    std::atomic<int64_t> made{0};
    std::atomic<bool> stopped{false};
    together(threads, [&](int thread) {
        Worker worker(*model, shared, barrier, thread, threads);
        for (int64_t turn = 0; turn < count; ++turn) {
            worker.step(current.data(), position + turn, logits);
            for (int b = thread; b < batch; b += threads) {
                const float* own = logits + b * size;
                if (!finite(own, size)) stopped = true;
                current[b] = uniforms ? draw(own, size, *drawing, uniforms[b * uniforms_stride + turn])
                                      : std::max_element(own, own + size) - own;
                drawn[b * count + turn] = current[b];
            }
            barrier.wait();
            if (stopped) return;
            if (thread == 0) made = turn + 1;
        }
    });
    return made;
}

}
