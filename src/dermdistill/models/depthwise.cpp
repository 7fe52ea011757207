// The weight's gradient of a depthwise convolution, from bf16 maps [images rows cols channels] in
// float32. Results are the same whatever the number of threads.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

using Half = uint16_t;  // the bits of a bf16
using Index = int64_t;

// As in depthwise.py.
struct Depthwise {
    Index images, rows, cols, channels, kernel, stride, padding, out_rows, out_cols, threads;
};

namespace {

constexpr Index LANES = 16, BLOCK = 2 * LANES;  // channels that are computed at once
constexpr Index BAND = 8;  // rows of the answer whose sum is float32; the bands' sum is float64

using Lanes = float __attribute__((vector_size(4 * LANES)));
using Bits = uint32_t __attribute__((vector_size(4 * LANES)));

// A block's channels, those at even places beside those at odd ones: so either is one operation.
struct Block {
    Lanes even, odd;

    explicit Block(const Half* x) {
        Bits both;
        std::memcpy(&both, x, sizeof both);
        even = Lanes(both << 16);
        odd = Lanes(both & 0xffff0000u);
    }
    Block() : even{}, odd{} {}
    void add(const Block& a, const Block& b) {
        even += a.even * b.even;
        odd += a.odd * b.odd;
    }
};

// Add to the sums of one row of the kernel what one row of the answer, at x's row below it, gives.
template <Index K>
void add_row(const Half* grad, const Half* x, const Depthwise& d, Block (&sums)[K]) {
    const Index step = d.channels, inside = (d.padding + d.stride - 1) / d.stride;
    const Index first = std::min(d.out_cols, inside);  // from here on all of the kernel is on x
    const Index whole = (d.cols + d.padding - K + d.stride) / d.stride;
    const Index last = std::clamp(whole, first, d.out_cols);
    const auto at_edge = [&](Index from, Index to) {
        for (Index col = from; col < to; col++)
            for (Index j = 0; j < K; j++) {
                const Index at = col * d.stride - d.padding + j;
                if (at < 0 || at >= d.cols) continue;
                sums[j].add(Block(grad + col * step), Block(x + at * step));
            }
    };
    at_edge(0, first);
    Block own[K];  // in registers
    for (Index col = first; col < last; col++) {
        const Block g(grad + col * step);
        const Half* seen = x + (col * d.stride - d.padding) * step;
        #pragma GCC unroll 8
        for (Index j = 0; j < K; j++) own[j].add(g, Block(seen + j * step));
    }
    for (Index j = 0; j < K; j++) {
        sums[j].even += own[j].even;
        sums[j].odd += own[j].odd;
    }
    at_edge(last, d.out_cols);
}

// The gradient [K K channels] from the rows of one image between top and bottom.
template <Index K>
void band(const Depthwise& d, const Half* grad, const Half* x, Index image, Index top,
          float* back) {
    const Index bottom = std::min(top + BAND, d.out_rows);
    for (Index next = 0; next < d.channels; next += BLOCK) {
        // The last block reaches back, and gives some channels the same numbers again.
        const Index channel = std::min(next, d.channels - BLOCK);
        for (Index i = 0; i < K; i++) {
            Block sums[K];
            for (Index row = top; row < bottom; row++) {
                const Index at = row * d.stride - d.padding + i;
                if (at < 0 || at >= d.rows) continue;
                add_row<K>(grad + (image * d.out_rows + row) * d.out_cols * d.channels + channel,
                           x + (image * d.rows + at) * d.cols * d.channels + channel, d, sums);
            }
            for (Index j = 0; j < K; j++)
                for (Index c = 0; c < BLOCK; c++)
                    back[(i * K + j) * d.channels + channel + c] =
                        (c % 2 ? sums[j].odd : sums[j].even)[c / 2];
        }
    }
}

}  // namespace

// The gradient [kernel kernel channels], for kernels of 3, 5 and 7 and at least BLOCK channels.
extern "C" void depthwise_weight(Depthwise d, const Half* grad, const Half* x, double* back) {
    const Index bands = (d.out_rows + BAND - 1) / BAND, size = d.kernel * d.kernel * d.channels;
    std::vector<float> parts(d.images * bands * size);
    const auto one = d.kernel == 3 ? band<3> : d.kernel == 5 ? band<5> : band<7>;
    #pragma omp parallel for schedule(static) num_threads(d.threads)
    for (Index at = 0; at < d.images * bands; at++)
        one(d, grad, x, at / bands, at % bands * BAND, &parts[at * size]);
    std::fill(back, back + size, 0.0);
    for (Index at = 0; at < d.images * bands; at++)
        for (Index k = 0; k < size; k++) back[k] += parts[at * size + k];
}
