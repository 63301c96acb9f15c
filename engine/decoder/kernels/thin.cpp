// The adapters' products by one of the units of thin.h, as Python calls them. x is [t, I], y is [t, O]; A is [R, I], B
// is [R, O], and `reach` says which ranks of B reach which outputs.

#include "thin.h"

// thin = x A^T, y += thin B.
extern "C" void thin_forward(const Unit *unit, const bf16 *x, const bf16 *a, const bf16 *b, const Reach *reach, bf16 *y,
                             bf16 *thin_memory, int64_t tokens, int64_t ranks, int64_t inputs, int64_t outputs) {
    Thin thin(thin_memory, tokens, ranks);
    unit->multiply(x, tokens, a, nullptr, ranks, inputs, thin);
    unit->add(y, tokens, thin, b, reach, ranks, outputs);
}

// b_gradient = thin^T dy, then thin = dy B^T, and dx += thin A where there is dx.
extern "C" void thin_backward(const Unit *unit, const bf16 *dy, const bf16 *a, const bf16 *b, const Reach *reach,
                              bf16 *dx, bf16 *thin_memory, float *b_gradient, int64_t tokens, int64_t ranks,
                              int64_t inputs, int64_t outputs) {
    Thin thin(thin_memory, tokens, ranks);
    unit->outer(thin, dy, tokens, reach, ranks, outputs, b_gradient);
    unit->multiply(dy, tokens, b, reach, ranks, outputs, thin);
    if (dx) unit->add(dx, tokens, thin, a, nullptr, ranks, inputs);
}

// a_gradient = thin^T x.
extern "C" void thin_finish(const Unit *unit, const bf16 *x, bf16 *thin_memory, float *a_gradient, int64_t tokens,
                            int64_t ranks, int64_t inputs) {
    unit->outer(Thin(thin_memory, tokens, ranks), x, tokens, nullptr, ranks, inputs, a_gradient);
}
