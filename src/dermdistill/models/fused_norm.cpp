// Batch norm and the cut behind it on bf16 maps [places channels], channels last, in float32.
// Results are the same whatever the number of threads.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

using Half = uint16_t;  // the bits of a bf16
using Index = int64_t;

// As in fused_norm.py.
struct Maps {
    Index places, channels, threads;
};
struct Norm {
    const float *mean, *scale, *bias;  // by channel
    float low, high;
};

namespace {

constexpr Index RUN = 256;    // numbers, at least, that an inner loop goes through
constexpr Index PART = 1024;  // places whose sum is float32; what adds the parts up is float64

inline float wide(Half x) { return std::bit_cast<float>(uint32_t(x) << 16); }

inline Half half(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to the nearest, or even
    return Half(x == x ? rounded : 0x7fc0);
}

// A gradient, where the answer that it belongs to was not cut.
inline float kept(float gradient, float answer, float low, float high) {
    const float inside = answer < high ? gradient : 0.0f;
    return answer > low ? inside : 0.0f;
}

// How many neighbours are done at once: whole places, so that a channel stays in its lane.
Index run_of(const Maps& maps) { return maps.channels * std::max<Index>(1, RUN / maps.channels); }

// Values by channel, repeated for the lanes of a run.
std::vector<float> lanes(const float* values, const Maps& maps) {
    std::vector<float> all(run_of(maps));
    for (Index i = 0; i < Index(all.size()); i++) all[i] = values[i % maps.channels];
    return all;
}

// Call act(from, count) for every run of a map.
template <class Act>
void every_run(const Maps& maps, Act act) {
    const Index numbers = maps.places * maps.channels, run = run_of(maps);
    #pragma omp parallel for schedule(static) num_threads(maps.threads)
    for (Index from = 0; from < numbers; from += run) act(from, std::min(run, numbers - from));
}

// Two sums by channel of what add(from, count, a, b) adds to the lanes a and b for every run.
template <class Add>
void two_sums(const Maps& maps, double* first, double* second, Add add) {
    const Index channels = maps.channels, run = run_of(maps);
    const Index parts = (maps.places + PART - 1) / PART;
    std::vector<float> sums(parts * 2 * channels);
    #pragma omp parallel for schedule(static) num_threads(maps.threads)
    for (Index part = 0; part < parts; part++) {
        std::vector<float> a(run), b(run);
        const Index end = std::min(maps.places, (part + 1) * PART) * channels;
        for (Index from = part * PART * channels; from < end; from += run)
            add(from, std::min(run, end - from), a.data(), b.data());
        float* own = &sums[part * 2 * channels];
        for (Index i = 0; i < run; i++) {
            own[i % channels] += a[i];
            own[channels + i % channels] += b[i];
        }
    }
    std::fill(first, first + channels, 0.0);
    std::fill(second, second + channels, 0.0);
    for (Index part = 0; part < parts; part++)
        for (Index c = 0; c < channels; c++) {
            first[c] += sums[part * 2 * channels + c];
            second[c] += sums[(part * 2 + 1) * channels + c];
        }
}

}  // namespace

extern "C" {

// Sums by channel of x - base and of its square.
void moments(Maps maps, const Half* x, const float* base, double* sum, double* square) {
    const auto bases = lanes(base, maps);
    two_sums(maps, sum, square, [&](Index from, Index count, float* a, float* b) {
        const float* near = bases.data();
        #pragma omp simd
        for (Index i = 0; i < count; i++) {
            const float off = wide(x[from + i]) - near[i];
            a[i] += off;
            b[i] += off * off;
        }
    });
}

// y = min(max((x - mean) scale + bias, low), high)
void answer(Maps maps, Norm norm, const Half* x, Half* y) {
    const auto means = lanes(norm.mean, maps), scales = lanes(norm.scale, maps);
    const auto biases = lanes(norm.bias, maps);
    every_run(maps, [&](Index from, Index count) {
        const float *mean = means.data(), *scale = scales.data(), *bias = biases.data();
        #pragma omp simd
        for (Index i = 0; i < count; i++) {
            const float full = (wide(x[from + i]) - mean[i]) * scale[i] + bias[i];
            const float above = full < norm.low ? norm.low : full;
            y[from + i] = half(above > norm.high ? norm.high : above);
        }
    });
}

// Sums by channel of the gradient g that the cut lets through, and of g (x - mean).
void gradient_sums(Maps maps, Norm norm, const Half* grad, const Half* x, double* sum,
                   double* slope) {
    const auto means = lanes(norm.mean, maps), scales = lanes(norm.scale, maps);
    const auto biases = lanes(norm.bias, maps);
    two_sums(maps, sum, slope, [&](Index from, Index count, float* a, float* b) {
        const float *mean = means.data(), *scale = scales.data(), *bias = biases.data();
        #pragma omp simd
        for (Index i = 0; i < count; i++) {
            const float centred = wide(x[from + i]) - mean[i];
            const float full = centred * scale[i] + bias[i];
            const float g = kept(wide(grad[from + i]), full, norm.low, norm.high);
            a[i] += g;
            b[i] += g * centred;
        }
    });
}

// The gradient of x: (g - shift - (x - mean) slope) scale, with shift and slope by channel.
void gradient(Maps maps, Norm norm, const Half* grad, const Half* x, const float* shift,
              const float* slope, Half* back) {
    const auto means = lanes(norm.mean, maps), scales = lanes(norm.scale, maps);
    const auto biases = lanes(norm.bias, maps);
    const auto shifts = lanes(shift, maps), slopes = lanes(slope, maps);
    every_run(maps, [&](Index from, Index count) {
        const float *mean = means.data(), *scale = scales.data(), *bias = biases.data();
        const float *down = shifts.data(), *tilt = slopes.data();
        #pragma omp simd
        for (Index i = 0; i < count; i++) {
            const float centred = wide(x[from + i]) - mean[i];
            const float full = centred * scale[i] + bias[i];
            const float g = kept(wide(grad[from + i]), full, norm.low, norm.high);
            back[from + i] = half((g - down[i] - centred * tilt[i]) * scale[i]);
        }
    });
}

}  // extern "C"
