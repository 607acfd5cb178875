// What native modules stand on: vectors of floats, and threads that wait for one another.
//
// It knows no music and no network. Vectors are those of GCC and Clang, as wide as the machine's
// registers; threads are started for each call and gone after it, so nothing is left behind.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace native {

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

inline Floats load(const float* from) {
    Floats lanes;
    std::memcpy(&lanes, from, sizeof lanes);
    return lanes;
}

inline void store(float* to, Floats lanes) { std::memcpy(to, &lanes, sizeof lanes); }

inline Floats all(float value) { return value - Floats{}; }

// By halves.
inline float sum(Floats lanes) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)lanes);
#elif defined(__AVX__)
    __m128 part = _mm_add_ps(_mm256_castps256_ps128((__m256)lanes),
                             _mm256_extractf128_ps((__m256)lanes, 1));
    part = _mm_add_ps(part, _mm_movehl_ps(part, part));
    return _mm_cvtss_f32(_mm_add_ss(part, _mm_movehdup_ps(part)));
#else
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
#endif
}

// Where threads wait until all have come. Waiting is short, so it spins; if it is not, the machine
// has other work for the cores, and a thread that sleeps leaves its own to the one it waits for.
class Barrier {
  public:
    explicit Barrier(int threads) : threads(threads) {}

    void wait() {
        const int now = turn.load(std::memory_order_relaxed);
        if (here.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
            here.store(0, std::memory_order_relaxed);
            {
                // Held, so that nobody falls asleep between looking and sleeping.
                const std::lock_guard<std::mutex> held(mutex);
                turn.store(now + 1, std::memory_order_release);
            }
            turned.notify_all();
            return;
        }
        for (int spins = 0; spins < SPINS; ++spins)
            if (turn.load(std::memory_order_acquire) != now) return;
        std::unique_lock<std::mutex> held(mutex);
        turned.wait(held, [&] { return turn.load(std::memory_order_acquire) != now; });
    }

  private:
    static constexpr int SPINS = 10000;
    const int threads;
    std::atomic<int> here{0}, turn{0};
    std::mutex mutex;
    std::condition_variable turned;
};

// Call `work(thread)` on so many threads, of which this one is the first.
template <class Work> void together(int threads, Work work) {
    std::vector<std::thread> others;
    for (int thread = 1; thread < threads; ++thread) others.emplace_back(work, thread);
    work(0);
    for (auto& other : others) other.join();
}

// A thread's share of `count` things, in whole groups of `group`.
struct Share {
    int64_t start, stop;
    Share(int64_t count, int thread, int threads, int64_t group = 1) {
        const int64_t groups = (count + group - 1) / group;
        start = groups * thread / threads * group;
        stop = groups * (thread + 1) / threads * group;
        if (stop > count) stop = count;
    }
};

}  // namespace native
