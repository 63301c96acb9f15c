// Number formats: every kernel reads and writes float or bfloat16 and computes in float.
#pragma once

#include <cstdint>
#include <cstring>

struct bf16 {
    uint16_t bits;
};

inline float to_float(float value) { return value; }

inline float to_float(bf16 value) {
    uint32_t wide = uint32_t(value.bits) << 16;
    float result;
    std::memcpy(&result, &wide, sizeof result);
    return result;
}

inline void store(float *place, float value) { *place = value; }

// Round to nearest, ties to even. The NaN a processor makes stays one: its low bits are zero and carry nothing over.
inline void store(bf16 *place, float value) {
    uint32_t wide;
    std::memcpy(&wide, &value, sizeof wide);
    place->bits = uint16_t((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
}

// e^x to 2e-7 relative, without a table or a branch, so that loops over it become vector code.
// 2^n comes from the exponent's bits and e^r, |r| <= ln(2)/2, from its Taylor polynomial. Beyond +-60 it stands still:
// what is multiplied with it next would otherwise be a denormal number, which costs a processor a hundred steps.
inline float exp_of(float x) {
    x = x > 60.0f ? 60.0f : x;
    x = x < -60.0f ? -60.0f : x;
    float n = __builtin_floorf(x * 1.44269504f + 0.5f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float e = 1.0f / 720;
    e = e * r + 1.0f / 120;
    e = e * r + 1.0f / 24;
    e = e * r + 1.0f / 6;
    e = e * r + 0.5f;
    e = e * r + 1.0f;
    e = e * r + 1.0f;
    int32_t power = (int32_t(n) + 127) << 23;
    float scale;
    std::memcpy(&scale, &power, sizeof scale);
    return e * scale;
}
