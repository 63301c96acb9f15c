// The elementwise work of a decoder layer, each kernel one pass over its rows.
//
// All arrays are dense and row-major; `reference.py` says in torch what each kernel computes. Rows are shared out
// among OpenMP's threads, and no sum crosses rows, so that results do not depend on how many there are.
// Compiled once a number format: NUMBER is float or bf16.

#include "numbers.h"

using number = NUMBER;

// Numbers taken at once where a row is a bucket's length, and the longest such row (see layout.py).
constexpr int STEP = 16, LONGEST = 4096;
constexpr float LOWEST = -3e38f;

#define KERNEL extern "C"
#define SIMD _Pragma("omp simd")
#define ROWS _Pragma("omp parallel for schedule(static)")

// RMSNorm(h + y). Without y the sum is h itself and is not written.
KERNEL void add_norm(const float *residual, const number *update, const float *weight, float epsilon, float *sum, number *normed,
                     float *scales, int64_t rows, int64_t width) {
    ROWS
    for (int64_t row = 0; row < rows; row++) {
        const float *h = residual + row * width;
        if (update) {
            const number *y = update + row * width;
            float *added = sum + row * width;
            SIMD
            for (int64_t i = 0; i < width; i++) added[i] = h[i] + to_float(y[i]);
            h = added;
        }
        float square = 0;
        _Pragma("omp simd reduction(+ : square)")
        for (int64_t i = 0; i < width; i++) square += h[i] * h[i];
        float scale = 1.0f / __builtin_sqrtf(square / float(width) + epsilon);
        scales[row] = scale;
        number *x = normed + row * width;
        SIMD
        for (int64_t i = 0; i < width; i++) store(x + i, h[i] * scale * weight[i]);
    }
}

// gradient += that through RMSNorm, given the gradient of its result; also rounded, and the normed rows once more.
KERNEL void norm_backward(const number *normed_gradient, const float *residual, const float *weight, const float *scales,
                          float *gradient, number *gradient_low, number *normed, int64_t rows, int64_t width) {
    ROWS
    for (int64_t row = 0; row < rows; row++) {
        const number *dx = normed_gradient + row * width;
        const float *h = residual + row * width;
        float *dh = gradient + row * width;
        number *low = gradient_low + row * width, *x = normed + row * width;
        float scale = scales[row], dot = 0;
        _Pragma("omp simd reduction(+ : dot)")
        for (int64_t i = 0; i < width; i++) dot += to_float(dx[i]) * weight[i] * h[i];
        float along = dot * scale * scale / float(width);
        SIMD
        for (int64_t i = 0; i < width; i++) {
            float value = h[i];
            float total = dh[i] + scale * (to_float(dx[i]) * weight[i] - value * along);
            dh[i] = total;
            store(low + i, total);
            store(x + i, value * scale * weight[i]);
        }
    }
}

KERNEL void swiglu(const number *gate_up, number *activation, int64_t rows, int64_t inner) {
    ROWS
    for (int64_t row = 0; row < rows; row++) {
        const number *gate = gate_up + row * 2 * inner, *up = gate + inner;
        number *a = activation + row * inner;
        SIMD
        for (int64_t i = 0; i < inner; i++) {
            float g = to_float(gate[i]);
            store(a + i, g / (1.0f + exp_of(-g)) * to_float(up[i]));
        }
    }
}

// In place: gate and up become their gradients, and the activation's gradient becomes the activation.
static void swiglu_backward_row(number *__restrict gate, number *__restrict up, number *__restrict a, int64_t inner) {
    SIMD
    for (int64_t i = 0; i < inner; i++) {
        float g = to_float(gate[i]), u = to_float(up[i]), da = to_float(a[i]);
        float sigmoid = 1.0f / (1.0f + exp_of(-g));
        float silu = g * sigmoid;
        store(gate + i, da * u * (sigmoid + silu * (1.0f - sigmoid)));
        store(up + i, da * silu);
        store(a + i, silu * u);
    }
}

KERNEL void swiglu_backward(number *gate_up, number *activation_gradient, int64_t rows, int64_t inner) {
    ROWS
    for (int64_t row = 0; row < rows; row++) {
        number *gate = gate_up + row * 2 * inner;
        swiglu_backward_row(gate, gate + inner, activation_gradient + row * inner, inner);
    }
}

// Where a document lies: its tokens among all, and its padded places ("slots") among the buckets'.
struct Document {
    int64_t begin, length, padded, slot;
};

// One head of one token: norm (if there are weights), rotate, store.
static void rotate(const number *__restrict head, const float *norm, float epsilon, const float *cos, const float *sin,
                   number *__restrict rotated, int64_t half) {
    if (!norm) {
        SIMD
        for (int64_t i = 0; i < half; i++) {
            float a = to_float(head[i]), b = to_float(head[i + half]);
            store(rotated + i, a * cos[i] - b * sin[i]);
            store(rotated + i + half, b * cos[i] + a * sin[i]);
        }
        return;
    }
    float square = 0;
    _Pragma("omp simd reduction(+ : square)")
    for (int64_t i = 0; i < 2 * half; i++) square += to_float(head[i]) * to_float(head[i]);
    float scale = 1.0f / __builtin_sqrtf(square / float(2 * half) + epsilon);
    SIMD
    for (int64_t i = 0; i < half; i++) {
        float a = to_float(head[i]) * scale * norm[i], b = to_float(head[i + half]) * scale * norm[i + half];
        store(rotated + i, a * cos[i] - b * sin[i]);
        store(rotated + i + half, b * cos[i] + a * sin[i]);
    }
}

// The gradient of `rotate`. `head` is what it read, and is only looked at where there was a norm.
static void rotate_backward(const number *rotated_gradient, const number *head, const float *norm, float epsilon, const float *cos,
                            const float *sin, number *gradient, int64_t half) {
    const number *d = rotated_gradient;
    if (!norm) {
        SIMD
        for (int64_t i = 0; i < half; i++) {
            float a = to_float(d[i]), b = to_float(d[i + half]);
            store(gradient + i, a * cos[i] + b * sin[i]);
            store(gradient + i + half, b * cos[i] - a * sin[i]);
        }
        return;
    }
    float square = 0, dot = 0;
    _Pragma("omp simd reduction(+ : square, dot)")
    for (int64_t i = 0; i < half; i++) {
        float x = to_float(head[i]), y = to_float(head[i + half]), a = to_float(d[i]), b = to_float(d[i + half]);
        square += x * x + y * y;
        dot += x * norm[i] * (a * cos[i] + b * sin[i]) + y * norm[i + half] * (b * cos[i] - a * sin[i]);
    }
    float scale = 1.0f / __builtin_sqrtf(square / float(2 * half) + epsilon);
    float along = dot * scale * scale / float(2 * half);
    SIMD
    for (int64_t i = 0; i < half; i++) {
        float x = to_float(head[i]), y = to_float(head[i + half]), a = to_float(d[i]), b = to_float(d[i + half]);
        store(gradient + i, scale * (norm[i] * (a * cos[i] + b * sin[i]) - x * along));
        store(gradient + i + half, scale * (norm[i + half] * (b * cos[i] - a * sin[i]) - y * along));
    }
}

static void fill_zero(number *place, int64_t count) {
    std::memset(place, 0, size_t(count) * sizeof(number));
}

// Tokens [tokens, heads, width] to a document's heads [heads, padded, width]. Places after its end become zero.
static void gather(const number *tokens, int64_t stride, const Document &document, number *heads_out, int64_t heads,
                   int64_t width) {
    for (int64_t head = 0; head < heads; head++) {
        number *out = heads_out + head * document.padded * width;
        for (int64_t place = 0; place < document.length; place++)
            std::memcpy(out + place * width, tokens + (document.begin + place) * stride + head * width,
                        size_t(width) * sizeof(number));
        fill_zero(out + document.length * width, (document.padded - document.length) * width);
    }
}

KERNEL void split_heads(const number *qkv, const Document *documents, int64_t count, const float *cos, const float *sin,
                        const float *query_norm, const float *key_norm, float epsilon, number *queries, number *keys, number *values,
                        int64_t heads, int64_t key_heads, int64_t width) {
    int64_t stride = (heads + 2 * key_heads) * width, half = width / 2;
    _Pragma("omp parallel for schedule(dynamic)")
    for (int64_t n = 0; n < count; n++) {
        const Document &document = documents[n];
        for (int64_t head = 0; head < heads + key_heads; head++) {
            bool is_query = head < heads;
            number *out = is_query ? queries + (document.slot * heads + head * document.padded) * width
                              : keys + (document.slot * key_heads + (head - heads) * document.padded) * width;
            for (int64_t place = 0; place < document.length; place++)
                rotate(qkv + (document.begin + place) * stride + head * width, is_query ? query_norm : key_norm,
                       epsilon, cos + place * half, sin + place * half, out + place * width, half);
            fill_zero(out + document.length * width, (document.padded - document.length) * width);
        }
        gather(qkv + (heads + key_heads) * width, stride, document, values + document.slot * key_heads * width,
               key_heads, width);
    }
}

// The way back for gradients. `qkv` is what split_heads read, or null where heads have no norm.
KERNEL void merge_heads(const number *queries, const number *keys, const number *values, const number *qkv, const Document *documents,
                        int64_t count, const float *cos, const float *sin, const float *query_norm,
                        const float *key_norm, float epsilon, number *merged, int64_t heads, int64_t key_heads,
                        int64_t width) {
    int64_t stride = (heads + 2 * key_heads) * width, half = width / 2;
    _Pragma("omp parallel for schedule(dynamic)")
    for (int64_t n = 0; n < count; n++) {
        const Document &document = documents[n];
        for (int64_t place = 0; place < document.length; place++) {
            int64_t token = (document.begin + place) * stride;
            for (int64_t head = 0; head < heads + key_heads; head++) {
                bool is_query = head < heads;
                const number *in = is_query ? queries + (document.slot * heads + head * document.padded) * width
                                       : keys + (document.slot * key_heads + (head - heads) * document.padded) * width;
                rotate_backward(in + place * width, qkv ? qkv + token + head * width : nullptr,
                                is_query ? query_norm : key_norm, epsilon, cos + place * half, sin + place * half,
                                merged + token + head * width, half);
            }
            for (int64_t head = 0; head < key_heads; head++)
                std::memcpy(merged + token + (heads + key_heads + head) * width,
                            values + (document.slot * key_heads + head * document.padded + place) * width,
                            size_t(width) * sizeof(number));
        }
    }
}

KERNEL void tokens_to_heads(const number *tokens, const Document *documents, int64_t count, number *out, int64_t heads,
                            int64_t width) {
    _Pragma("omp parallel for schedule(dynamic)")
    for (int64_t n = 0; n < count; n++)
        gather(tokens, heads * width, documents[n], out + documents[n].slot * heads * width, heads, width);
}

KERNEL void heads_to_tokens(const number *in, const Document *documents, int64_t count, number *tokens, int64_t heads,
                            int64_t width) {
    _Pragma("omp parallel for schedule(dynamic)")
    for (int64_t n = 0; n < count; n++) {
        const Document &document = documents[n];
        for (int64_t head = 0; head < heads; head++)
            for (int64_t place = 0; place < document.length; place++)
                std::memcpy(tokens + ((document.begin + place) * heads + head) * width,
                            in + (document.slot * heads + head * document.padded + place) * width,
                            size_t(width) * sizeof(number));
    }
}

// Rows of scores [.., length, length]: a softmax over the places up to the row's own, and zeros behind them.
// Buckets' lengths are multiples of STEP, so that no loop has a remainder; what is behind the row's place is masked.
KERNEL void causal_softmax(number *scores, float scale, int64_t rows, int64_t length) {
    ROWS
    for (int64_t row = 0; row < rows; row++) {
        number *__restrict s = scores + row * length;
        int seen = int(row % length) + 1, steps = (seen + STEP - 1) / STEP * STEP;
        float powers[LONGEST], peak = LOWEST, total = 0;
        SIMD
        for (int i = 0; i < steps; i++) powers[i] = to_float(s[i]);
        for (int i = seen; i < steps; i++) powers[i] = LOWEST;
        _Pragma("omp simd reduction(max : peak)")
        for (int i = 0; i < steps; i++) peak = powers[i] > peak ? powers[i] : peak;
        SIMD
        for (int i = 0; i < steps; i++) powers[i] = exp_of((powers[i] - peak) * scale);
        for (int i = seen; i < steps; i++) powers[i] = 0;
        _Pragma("omp simd reduction(+ : total)")
        for (int i = 0; i < steps; i++) total += powers[i];
        float share = 1.0f / total;
        SIMD
        for (int i = 0; i < steps; i++) store(s + i, powers[i] * share);
        fill_zero(s + steps, length - steps);
    }
}

// In place of the gradient of the probabilities: that of the scores. The probabilities' zeros mask what is not seen.
KERNEL void causal_softmax_backward(const number *probabilities, number *gradient, float scale, int64_t rows,
                                    int64_t length) {
    ROWS
    for (int64_t row = 0; row < rows; row++) {
        const number *__restrict p = probabilities + row * length;
        number *__restrict d = gradient + row * length;
        int64_t steps = (row % length + STEP) / STEP * STEP;
        float products[STEP] = {}, dot = 0;
        for (int64_t i = 0; i < steps; i += STEP)
            SIMD
            for (int64_t j = 0; j < STEP; j++) products[j] += to_float(p[i + j]) * to_float(d[i + j]);
        _Pragma("omp simd reduction(+ : dot)")
        for (int64_t j = 0; j < STEP; j++) dot += products[j];
        for (int64_t i = 0; i < steps; i += STEP)
            SIMD
            for (int64_t j = 0; j < STEP; j++)
                store(d + i + j, to_float(p[i + j]) * (to_float(d[i + j]) - dot) * scale);
        fill_zero(d + steps, length - steps);
    }
}

// Loss in nats of each row, and whether its target is the likeliest (the first of equals). Where sums are asked for,
// they are those of the powers e^(logit - largest), and the logits become the powers, less the sum at the target:
// times weight / sum, that is the gradient of a weighted loss. It is left to whoever multiplies with the head's
// matrix, on a row a hundred times shorter.
KERNEL void cross_entropy(number *logits, const int64_t *targets, float *sums, float *losses, int64_t *correct,
                          int64_t rows, int64_t width) {
    ROWS
    for (int64_t row = 0; row < rows; row++) {
        number *__restrict l = logits + row * width;
        int64_t target = targets[row];
        float wanted = to_float(l[target]), before = LOWEST, behind = wanted, total = 0;
        _Pragma("omp simd reduction(max : before)")
        for (int64_t i = 0; i < target; i++) before = to_float(l[i]) > before ? to_float(l[i]) : before;
        _Pragma("omp simd reduction(max : behind)")
        for (int64_t i = target + 1; i < width; i++) behind = to_float(l[i]) > behind ? to_float(l[i]) : behind;
        float most = before > behind ? before : behind;
        correct[row] = before < wanted && behind == wanted;
        if (sums) {
            _Pragma("omp simd reduction(+ : total)")
            for (int64_t i = 0; i < width; i++) {
                float power = exp_of(to_float(l[i]) - most);
                store(l + i, power);
                total += power;
            }
            sums[row] = total;
            store(l + target, exp_of(wanted - most) - total);
        } else {
            _Pragma("omp simd reduction(+ : total)")
            for (int64_t i = 0; i < width; i++) total += exp_of(to_float(l[i]) - most);
        }
        losses[row] = __builtin_logf(total) + most - wanted;
    }
}
