// Convolutions over time, layer upon layer, and the nearest entries of a codebook.
//
// It knows layers, not levels or codes; whose weights they are is `native.py`'s. Positions stream
// through all layers a stretch at a time, and between two layers only what the next still needs is
// kept, in a ring. So whatever is read was written a moment ago and lies in a cache, and memory
// does not grow with the length. Every output is summed in one order, input channel by input
// channel and tap by tap, whoever computes it and whenever.
//
// Letters: T positions, W channels, K taps, P vectors, D their width, E entries of a codebook.

#include <algorithm>
#include <limits>
#include <memory>

#include "native.h"

using namespace native;

// What is indexed in a loop is in registers only where the loop is gone.
#define UNROLLED _Pragma("GCC unroll 16")

namespace {

constexpr int TILE = REGISTERS == 32 ? 12 : 6;  // positions whose sums are in registers ...
constexpr int PAIR = 2;                         // ... times vectors of outputs
constexpr int BLOCK = 4 * TILE;                 // positions that weights are read for at a time
constexpr int STRETCH = 4 * BLOCK;              // positions a thread, then the next layer
constexpr int LINE = 64 / sizeof(float);        // numbers in a line of the cache

constexpr int vectors_of(int channels) { return (channels + LANES - 1) / LANES; }
constexpr int64_t rounded_up(int64_t number, int64_t multiple) {
    return (number + multiple - 1) / multiple * multiple;
}

inline Floats relu(Floats x) { return x < 0 ? Floats{} : x; }  // NaN stays

// Numbers on cache lines of their own, zeros at first.
class Numbers {
  public:
    Numbers(Numbers&&) = default;
    explicit Numbers(int64_t count) : kept(count + 16), start(kept.data()) {
        const auto past = (uintptr_t)start % 64;
        if (past) start += (64 - past) / sizeof(float);
    }
    float* at(int64_t place) const { return start + place; }

  private:
    std::vector<float> kept;
    float* start;
};

}  // namespace

extern "C" {

// Weights lie as they are read: for each pair of output vectors (the last may be single), for each
// tap, for each input channel, the outputs.
struct Weights {
    const float* weight;
    const float* bias;  // padded with zeros to whole vectors
    int32_t in, out, taps;
};

// A convolution; or with `phases` 2 two that make every other output each, which is what a
// transposed one of kernel 4 and stride 2 comes to; or a residual block.
struct Layer {
    Weights conv[2];  // of a block: dilated, pointwise; of phases: one each
    int32_t dilation, stride, padding, phases, residual;
    float scale;  // of a residual branch
};
}

namespace {

// The sums of COUNT positions and VECTORS vectors of outputs. `rows(tap)` is the input of the first
// position at a tap, the next is `step` numbers on. A function of its own, since whatever else the
// compiler keeps in registers is one less to sum in.
template <int COUNT, int VECTORS, class Rows, class Put>
__attribute__((noinline)) void tile(const Weights& w, const float* weight, const float* bias,
                                    int64_t step, const Rows& rows, const Put& put) {
    constexpr int FAN = 4;  // positions reached from one pointer, to need few
    constexpr int FANS = (COUNT + FAN - 1) / FAN;
    Floats sums[COUNT][VECTORS];
UNROLLED
    for (int v = 0; v < VECTORS; ++v)
UNROLLED
        for (int p = 0; p < COUNT; ++p) sums[p][v] = load(bias + v * LANES);
    for (int tap = 0; tap < w.taps; ++tap) {
        const float* from[FANS];
        for (int f = 0; f < FANS; ++f) from[f] = rows(tap) + f * FAN * step;
        const float* next = from[0] + TILE * step;
        for (int i = 0; i < w.in; ++i) {
            __builtin_prefetch(next + i * LINE);
            Floats lanes[VECTORS];
UNROLLED
            for (int v = 0; v < VECTORS; ++v) lanes[v] = load(weight + v * LANES);
            weight += VECTORS * LANES;
UNROLLED
            for (int p = 0; p < COUNT; ++p) {
                const Floats input = all(from[p / FAN][p % FAN * step]);
UNROLLED
                for (int v = 0; v < VECTORS; ++v) sums[p][v] += input * lanes[v];
            }
            for (int f = 0; f < FANS; ++f) ++from[f];
        }
    }
UNROLLED
    for (int p = 0; p < COUNT; ++p)
UNROLLED
        for (int v = 0; v < VECTORS; ++v) put(p, v, sums[p][v]);
}

// All outputs at positions [start, stop), at most BLOCK, pair by pair, so that a pair's weights
// stay in the nearest cache. `rows(position)` gives rows of a tap, `puts(position, vector)` takes
// sums.
template <class Rows, class Puts>
void convolve(const Weights& w, int64_t start, int64_t stop, int64_t step, const Rows& rows,
              const Puts& puts) {
    const int vectors = vectors_of(w.out);
    const float* weight = w.weight;
    for (int v = 0; v < vectors; v += PAIR) {
        const bool pair = v + PAIR <= vectors;
        const float* bias = w.bias + v * LANES;
        int64_t t = start;
        for (; t + TILE <= stop; t += TILE)
            if (pair)
                tile<TILE, PAIR>(w, weight, bias, step, rows(t), puts(t, v));
            else
                tile<TILE, 1>(w, weight, bias, step, rows(t), puts(t, v));
        for (; t < stop; ++t)
            if (pair)
                tile<1, PAIR>(w, weight, bias, step, rows(t), puts(t, v));
            else
                tile<1, 1>(w, weight, bias, step, rows(t), puts(t, v));
        weight += (int64_t)w.taps * w.in * LANES * (pair ? PAIR : 1);
    }
}

// What lies between two layers: rows of numbers by position, the last `size` of them. Whoever
// reads may read `mirrored` rows on from any, so the first are there twice. Rows before position 0
// are zeros.
struct Ring {
    int64_t size, mirrored, width;
    Numbers plain;      // [size + mirrored, width]
    Numbers rectified;  // the same through a ReLU, if the next layer wants it
    bool both;

    Ring(int64_t least, int64_t ahead, int channels, bool both)
        : size(rounded_up(least, 2 * BLOCK)),  // so that no block that is written is cut in two
          mirrored(ahead), width(vectors_of(channels) * LANES),
          plain((size + mirrored) * width), rectified(both ? (size + mirrored) * width : 0),
          both(both) {}

    int64_t slot(int64_t row) const {
        row %= size;
        return row < 0 ? row + size : row;
    }
    float* row(int64_t position) const { return plain.at(slot(position) * width); }
    float* rectified_row(int64_t position) const { return rectified.at(slot(position) * width); }

    // Bring rows near that are soon read, or written.
    void expect_read(int64_t start, int64_t stop) const {
        const float* from = row(start);
        for (int64_t i = 0; i < (stop - start) * width; i += LINE) __builtin_prefetch(from + i);
    }
    void expect_written(int64_t start, int64_t stop) const {
        for (const Numbers* numbers : {&plain, &rectified}) {
            const float* from = numbers->at(slot(start) * width);
            if (numbers == &plain || both)
                for (int64_t i = 0; i < (stop - start) * width; i += LINE)
                    __builtin_prefetch(from + i, 1);
        }
    }
    // After rows were written.
    void repeat(int64_t start, int64_t stop) const {
        int64_t from = slot(start);
        for (; start < stop; ++start, from = from + 1 == size ? 0 : from + 1) {
            if (from >= mirrored) continue;
            const auto bytes = width * sizeof(float);
            std::memcpy(plain.at((size + from) * width), plain.at(from * width), bytes);
            if (both)
                std::memcpy(rectified.at((size + from) * width), rectified.at(from * width), bytes);
        }
    }
    void clear(int64_t start, int64_t stop) const {
        for (int64_t t = start; t < stop; ++t) {
            std::fill_n(row(t), width, 0.0f);
            if (both) std::fill_n(rectified_row(t), width, 0.0f);
        }
        repeat(start, stop);
    }
};

// How far a layer's inputs reach, and how many outputs they make.
struct Shape {
    int64_t span, stride, padding, phases;
    explicit Shape(const Layer& layer)
        : span((layer.phases == 2 ? 2 : (layer.conv[0].taps - 1) * layer.dilation) + 1),
          stride(layer.stride), padding(layer.padding), phases(layer.phases) {}
    // Positions (pairs of outputs, if there are two phases) that `rows` inputs suffice for.
    int64_t positions(int64_t rows) const {
        const int64_t room = rows + padding - span;
        return room < 0 ? 0 : room / stride + 1;
    }
    int64_t outputs(int64_t length) const { return positions(length + padding) * phases; }
};

// Positions [start, stop) of a layer.
void compute(const Layer& layer, const Ring& in, const Ring& out, int64_t start, int64_t stop) {
    const Weights& first = layer.conv[0];
    const float* inputs = layer.residual ? in.rectified.at(0) : in.plain.at(0);
    const int64_t step = in.width * layer.stride;
    auto from = [&](int phase) {
        return [&, phase](int64_t t) {
            const int64_t begin = t * layer.stride - layer.padding + phase;
            return [&, begin](int tap) {
                return inputs + in.slot(begin + (int64_t)tap * layer.dilation) * in.width;
            };
        };
    };
    auto to = [&](int phase) {
        return [&, phase](int64_t t, int vector) {
            const int64_t place = out.slot(t * layer.phases + phase) * out.width + vector * LANES;
            float* plain = out.plain.at(place);
            float* rectified = out.both ? out.rectified.at(place) : nullptr;
            return [=, width = out.width * layer.phases](int p, int v, Floats sums) {
                store(plain + p * width + v * LANES, sums);
                if (rectified) store(rectified + p * width + v * LANES, relu(sums));
            };
        };
    };
    if (!layer.residual) {
        for (int phase = 0; phase < layer.phases; ++phase)
            convolve(layer.conv[phase], start, stop, step, from(phase), to(phase));
    } else {
        const int64_t wide = vectors_of(first.out) * LANES;
        thread_local std::vector<float> kept;
        kept.resize(BLOCK * wide + 16);
        float* hidden = kept.data() + (64 - (uintptr_t)kept.data() % 64) % 64 / sizeof(float);
        in.expect_read(start, stop);
        out.expect_written(start, stop);
        convolve(first, start, stop, step, from(0), [&](int64_t t, int vector) {
            float* place = hidden + (t - start) * wide + vector * LANES;
            return [=](int p, int v, Floats sums) {
                store(place + p * wide + v * LANES, relu(sums));
            };
        });
        auto inner = [&](int64_t t) {
            return [=](int) -> const float* { return hidden + (t - start) * wide; };
        };
        convolve(layer.conv[1], start, stop, wide, inner, [&](int64_t t, int vector) {
            const float* skip = in.row(t) + vector * LANES;
            return [put = to(0)(t, vector), scale = all(layer.scale), skip, width = in.width](
                       int p, int v, Floats sums) {
                put(p, v, sums * scale + load(skip + p * width + v * LANES));
            };
        });
    }
    out.repeat(start * layer.phases, stop * layer.phases);
}

// Layers that positions stream through. Threads share every stretch of every layer; which one
// comes next each of them knows by counting, so that they only wait for one another's numbers.
class Stream {
  public:
    Stream(const Layer* layers, int depth, int threads)
        : layers(layers), threads(threads),
          stretch(STRETCH * threads), barrier(threads) {
        for (int i = 0; i < depth; ++i) shapes.emplace_back(layers[i]);
        for (int i = 0; i <= depth; ++i) {
            const bool last = i == depth;
            const int channels = last ? out_of(layers[depth - 1]) : layers[i].conv[0].in;
            const int64_t kept = last ? 0 : shapes[i].span + shapes[i].padding;
            const int64_t stride = last ? 1 : shapes[i].stride;
            rings.emplace_back(kept + (stride + 2) * stretch, last ? 0 : stride * TILE,
                               channels, !last && layers[i].residual);
        }
    }

    void run(const float* in, int64_t length, float* out) {
        together(threads, [&](int thread) { stream(thread, in, length, out); });
    }

  private:
    typedef std::vector<int64_t> Counts;  // by ring

    static int out_of(const Layer& layer) {
        return layer.residual ? layer.conv[1].out : layer.conv[0].out;
    }

    // `have[i]`: rows that were put into ring i; `done[i]`: positions made of them.
    void stream(int thread, const float* in, int64_t length, float* out) {
        const int depth = (int)shapes.size();
        Counts have(depth + 1), done(depth + 1), total{length};
        for (const Shape& shape : shapes) total.push_back(shape.outputs(total.back()));
        while (done[depth] < total[depth]) {
            fill(thread, in, have, done, total);
            for (int i = 0; i < depth; ++i) {
                const Shape& shape = shapes[i];
                const bool ended = have[i] == total[i];
                const int64_t most = total[i + 1] / shape.phases;
                int64_t stop = ended ? most : shape.positions(have[i]);
                stop = std::min(stop, (done_with(i + 1, done) + room(i + 1)) / shape.phases);
                if (stop < most) stop = stop / stretch * stretch;
                if (stop <= done[i]) continue;
                work(thread, i, done[i], stop);
                done[i] = stop;
                have[i + 1] = stop * shape.phases;
                close(thread, i + 1, have, total);
                barrier.wait();
            }
            drain(thread, out, have, done);
        }
    }

    // Rows of ring i that whoever reads it no longer needs.
    int64_t done_with(int i, const Counts& done) const {
        if (i == (int)shapes.size()) return done[i];
        return done[i] * shapes[i].stride - shapes[i].padding;
    }
    // Rows that may be in ring i, with room left for the zeros at the end.
    int64_t room(int i) const {
        return rings[i].size - (i == (int)shapes.size() ? 0 : shapes[i].padding);
    }

    // Where the last row has come, the next layer finds its zeros behind it.
    void close(int thread, int i, const Counts& have, const Counts& total) {
        if (thread == 0 && i < (int)shapes.size() && have[i] == total[i])
            rings[i].clear(total[i], total[i] + shapes[i].padding);
    }

    void work(int thread, int i, int64_t start, int64_t stop) {
        const Share share(stop - start, thread, threads, BLOCK);
        for (int64_t at = share.start; at < share.stop; at += BLOCK)
            compute(layers[i], rings[i], rings[i + 1], start + at,
                    start + std::min<int64_t>(at + BLOCK, share.stop));
    }

    void fill(int thread, const float* in, Counts& have, const Counts& done,
              const Counts& total) {
        const Ring& ring = rings[0];
        const int channels = layers[0].conv[0].in;
        const int64_t stop = std::min(total[0], done_with(0, done) + room(0));
        if (stop > have[0]) {
            const Share share(stop - have[0], thread, threads);
            for (int64_t t = have[0] + share.start; t < have[0] + share.stop; ++t) {
                const float* from = in + t * channels;
                std::copy_n(from, channels, ring.row(t));
                if (ring.both)
                    std::transform(from, from + channels, ring.rectified_row(t),
                                   [](float x) { return x < 0 ? 0 : x; });
            }
            ring.repeat(have[0] + share.start, have[0] + share.stop);
            have[0] = stop;
            close(thread, 0, have, total);
        }
        barrier.wait();
    }

    void drain(int thread, float* out, const Counts& have, Counts& done) {
        const int depth = (int)shapes.size();
        const int channels = out_of(layers[depth - 1]);
        const Share share(have[depth] - done[depth], thread, threads);
        for (int64_t t = done[depth] + share.start; t < done[depth] + share.stop; ++t)
            std::memcpy(out + t * channels, rings[depth].row(t), channels * sizeof(float));
        done[depth] = have[depth];
        barrier.wait();
    }

    const Layer* layers;
    const int threads;
    const int64_t stretch;
    Barrier barrier;
    std::vector<Shape> shapes;
    std::vector<Ring> rings;
};

// The best and second best of the entries that a lane has seen.
struct Best {
    Floats least, second;
    Ints entry;
};

void find(const Weights& codebook, const float* vectors, int64_t start, int64_t stop,
          int64_t* codes, float* gaps) {
    const Floats far = all(std::numeric_limits<float>::infinity());
    Best best[BLOCK];
    for (auto& one : best) one = {far, far, Ints{}};
    auto rows = [&](int64_t t) {
        return [=](int) { return vectors + t * codebook.in; };
    };
    convolve(codebook, start, stop, codebook.in, rows, [&](int64_t t, int vector) {
        Best* to = best + (t - start);
        return [=](int p, int v, Floats distance) {
            Best& now = to[p];
            const auto nearer = distance < now.least;
            const Floats other = nearer ? now.least : distance;
            now.second = other < now.second ? other : now.second;
            now.entry = nearer ? Ints{} + (vector + v) : now.entry;
            now.least = nearer ? distance : now.least;
        };
    });
    for (int64_t t = start; t < stop; ++t) {
        const Best& one = best[t - start];
        int64_t code = 0;
        float least = one.least[0], second = one.second[0];
        code = (int64_t)one.entry[0] * LANES;
        for (int lane = 1; lane < LANES; ++lane) {
            const float other = one.least[lane];
            if (other < least) {
                second = std::min(least, one.second[lane]);
                least = other;
                code = (int64_t)one.entry[lane] * LANES + lane;
            } else {
                second = std::min(second, other);
            }
        }
        codes[t] = code;
        gaps[t] = second - least;
    }
}

}  // namespace

extern "C" {

int32_t jukebox_codec_lanes() { return LANES; }

// How many positions the layers make of so many.
int64_t jukebox_codec_length(const Layer* layers, int32_t depth, int64_t length) {
    for (int i = 0; i < depth; ++i) length = Shape(layers[i]).outputs(length);
    return length;
}

// [length, W of the first layer] -> [as many as the layers make of them, W of the last].
void jukebox_codec_run(const Layer* layers, int32_t depth, const float* in, int64_t length,
                       float* out, int32_t threads) {
    Stream(layers, depth, threads).run(in, length, out);
}

// For each vector [P, D] the entry of least `distance`, which is its bias plus the product, and how
// much further the second is. Among equals any may be named; the gap is then 0.
void jukebox_codec_nearest(const Weights* codebook, const float* vectors, int64_t count,
                           int64_t* codes, float* gaps, int32_t threads) {
    together(threads, [&](int thread) {
        const Share share(count, thread, threads, BLOCK);
        for (int64_t at = share.start; at < share.stop; at += BLOCK)
            find(*codebook, vectors, at, std::min<int64_t>(at + BLOCK, share.stop), codes, gaps);
    });
}
}
