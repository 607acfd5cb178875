// How codes are drawn from logits, as `prior/drawing.py` says it. It knows no network.

#pragma once

#include "arithmetic.h"

extern "C" {

struct Drawing {
    double temperature, top_p;
    int32_t top_k;
};
}

namespace {

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
