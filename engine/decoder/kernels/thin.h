// The adapters' products, which are thin: tokens by ranks, and ranks by features.
//
// A library's matrix product treats them badly: it is made for matrices that are wide both ways. Here the wide matrix
// is read once, and multiplied by whatever unit the processor has.
//
// Letters: t tokens, R ranks, N features (a multiple of 32). S is one of an adapter's two matrices, [R, N].
#pragma once

#include "numbers.h"

#include <vector>

using Numbers = std::vector<bf16>;

inline int64_t padded(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// Thin numbers, twice: a row a token, [t, R], and as the unit's own `outer` reads them. t and R are rounded up to 32.
struct Thin {
    int64_t tokens, ranks;
    bf16 *by_token, *for_outer;
    Thin(bf16 *memory, int64_t tokens, int64_t ranks)
        : tokens(padded(tokens, 32)), ranks(padded(ranks, 32)), by_token(memory),
          for_outer(memory + this->tokens * this->ranks) {}
};

// For every 32 features the ranks, from the first to before the last, whose S is not zero there. A run's stacked B is
// a matrix of blocks beside zeros. A unit may leave those products out, and leave their place in `outer` unset.
struct Reach {
    int64_t first, last;
};

struct Unit {
    // thin = x[t, N] S^T.
    void (*multiply)(const bf16 *x, int64_t tokens, const bf16 *s, const Reach *, int64_t ranks, int64_t features,
                     const Thin &);
    // y[t, N] += thin S.
    void (*add)(bf16 *y, int64_t tokens, const Thin &, const bf16 *s, const Reach *, int64_t ranks, int64_t features);
    // sums[R, N] = thin^T x[t, N], R rounded up to 16.
    void (*outer)(const Thin &, const bf16 *x, int64_t tokens, const Reach *, int64_t ranks, int64_t features,
                  float *sums);
};

// What the processor has, or null: Intel's tiles (AMX), and AVX-512's bf16 products.
extern "C" const Unit *thin_tiles();
extern "C" const Unit *thin_vectors();
