// One-token steps of a prior, many in a row: embedding, layers over caches, logits, the draw.
//
// At one item a step reads every weight once and computes next to nothing, so its speed is that of
// memory; this file exists to come near it. It knows no patterns: for every position it is told
// into which slot of a layer's cache the new key goes and which slots the query sees. It owns
// nothing: weights and caches are where PyTorch keeps them.
//
// Letters: B items, W width, H heads, D width of a head, C slots of a cache, V tokens.

#include "arithmetic.h"
#include "drawing.h"

extern "C" {

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
}

namespace {

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
