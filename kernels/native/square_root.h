/* The square root of float32 by multiplications: the same bits as the instruction, for every input.

   A processor has one divider for square roots and divisions, and two multipliers. An update with a root and a division
   waits for the divider while multipliers idle, so some of the roots are better computed here. Exact where denormals are
   zero and rounding is to the nearest, which a loop asks about first. The significand goes through one polynomial and
   two Newton steps with fused multiply-adds, the last of which rounds as the instruction does; exponents are put back as
   integers, so nothing on the way is too large or too small. That leaves one question per significand and parity of
   exponent: 2^24 in all, and tests ask all of them. */

#ifndef FASTOPT_SQUARE_ROOT_H
#define FASTOPT_SQUARE_ROOT_H

#if defined(__AVX512F__) && defined(__FMA__) && defined(__GNUC__)
#define FASTOPT_CAN_SHARE_ROOTS 1
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t bits_of(float x) { uint32_t bits; memcpy(&bits, &x, sizeof bits); return bits; }
static inline float float_of(uint32_t bits) { float x; memcpy(&x, &bits, sizeof x); return x; }

/* x within [0.5, 2). Three coefficients that halve the digits of 1 / sqrt(x) that are still wrong, thrice over, from the
   usual first guess by the bits; they were found by a search for the smallest greatest error. */
static inline float sqrt_of_significand(float x) {
    float inverse = float_of(0x5f330000u - (bits_of(x) >> 1));
    float square = x * inverse * inverse;
    float polynomial = __builtin_fmaf(square, 0x1.aa41fcp-2f, -0x1.54f398p+0f);
    float root, half, error;
    inverse *= __builtin_fmaf(square, polynomial, 0x1.ea61ecp+0f);
    root = x * inverse;
    half = 0.5f * inverse;
    error = __builtin_fmaf(-root, half, 0.5f);
    root = __builtin_fmaf(root, error, root);
    half = __builtin_fmaf(half, error, half);
    error = __builtin_fmaf(-root, root, x);
    return __builtin_fmaf(error, half, root);
}

static inline float sqrtf_by_fma(float x) {
    uint32_t bits = bits_of(x);
    float root = sqrt_of_significand(float_of((bits & 0x00ffffffu) | 0x3f000000u));
    float scaled = float_of(bits_of(root) + ((bits >> 1) & 0x7f800000u) - 0x1f800000u);
    float other = x < 0 ? float_of(0xffc00000u) : x + x; /* 0, infinity and NaN */
    return bits - 0x00800000u < 0x7f000000u ? scaled : other;
}

/* Denormals are zero on input and output, and rounding is to the nearest. */
static inline int roots_can_be_shared(void) { return (_mm_getcsr() & 0xe040u) == 0x8040u; }
#else
#define FASTOPT_CAN_SHARE_ROOTS 0
static inline float sqrtf_by_fma(float x) { return sqrtf(x); }
static inline int roots_can_be_shared(void) { return 0; }
#endif

#endif
