"""Storage formats: how the 32 bits of a float32 number become a code of fewer bits, and back.

The functions take and return words of 32 bits without sign, in a dialect of its own: assignments and one `return`,
`+ - * & | ^ << >>` (which wrap around), whole numbers, comparisons inside `select`, calls of functions above, and of
`larger`, `smaller` and `shifted`, which take words as numbers with a sign, and of `is_nan`. The words of numbers are
exact, so codes have the same bits everywhere.

Each format has three functions. `NAME_decoded` gives the bits of a number from its code. `NAME_nearest` rounds bits to
the nearest code, ties to even in 16 bits and away from zero in 8. `NAME_stochastic` rounds up or down at random, so
that the expected value is the number itself; `random` is a word of 32 random bits, of which the upper ones are used.

What compilers make of them decides how fast a step is: each operation is one instruction for 8 or 16 elements.
"""

from .vocabulary import is_nan, larger, select, shifted, smaller, whole


def scrambled(word):
    """A word whose every bit depends on all bits of the argument, and no two of them on each other.

    The constants are Chris Wellons' "lowbias32": the bits of the result change with probability 0.5 when a bit of the
    argument does, to within 0.2 per cent.
    """
    first = (word ^ (word >> 16)) * 0x7FEB352D
    second = (first ^ (first >> 15)) * 0x846CA68B
    return second ^ (second >> 16)


def element_word(element, key):
    """A word for each element of an array in one step, a constant more than that of the element before."""
    return element * 0x9E3779B9 + key


def random_word(word):
    """Random bits from an `element_word`: the upper ones.

    One multiplication is enough here, because `combined_key` has made keys that do not depend on each other.
    """
    return (word ^ (word >> 15)) * 0x846CA68B


def combined_key(key, word):
    """A key that depends on a key and one more word."""
    return scrambled(key ^ (word * 0x85EBCA6B + 0xC2B2AE35))


# --- bfloat16: the upper half of a float32 ----------------------------------------------------------------------------


def bfloat16_word(bits, addend):
    """A word whose upper half is the code. NaN of arithmetic are quiet and stay as they are; signalling ones may become
    infinite."""
    return bits + select(is_nan(bits) == 1, 0, addend)


def bfloat16_nearest_word(bits):
    return bfloat16_word(bits, 0x7FFF + ((bits >> 16) & 1))


def bfloat16_stochastic_word(bits, random):
    return bfloat16_word(bits, random >> 16)  # which leaves infinities as they are


def bfloat16_decoded(code):
    return code << 16


def bfloat16_nearest(bits):
    return bfloat16_nearest_word(bits) >> 16


def bfloat16_stochastic(bits, random):
    return bfloat16_stochastic_word(bits, random) >> 16


# --- bfloat16 and the rest of the float32 -----------------------------------------------------------------------------


def split_bfloat16_decoded(code, rest):
    """The float32 number of which `code` is the nearest bfloat16; `rest` is their difference, in two's complement.

    Somebody else may have set the code, and left the rest. Beside an infinity or a NaN it means nothing; beside 0, one
    below 0 means 0, since it would make a NaN.
    """
    below = (code & 0x7FFF) - 1  # which wraps around for 0: `below >> 17` is 0x7FFF there, and else 0
    signed = (rest ^ 0x8000) - 0x8000
    return (code << 16) + select(below >= 0x7F7F, rest & (below >> 17), signed)


def split_bfloat16_nearest(bits):
    """The nearest bfloat16, ties away from zero, and the rest; what is infinite or NaN as bfloat16 has no rest."""
    magnitude = bits & 0x7FFFFFFF
    code = select(magnitude > 0x7F800000, (bits >> 16) | 0x40, (bits + 0x8000) >> 16)
    rest = select(magnitude >= 0x7F7F8000, 0, bits & 0xFFFF)
    return code, rest


# --- small floating-point numbers -------------------------------------------------------------------------------------
#
# A small number has a sign, some bits of exponent and some of fraction. Like those of IEEE 754 it is
# 2^(exponent + base - 127) * 1.fraction, or without the leading 1 where the exponent is 0. `shift` is 23 less the bits
# of fraction.


def small_word(magnitude, base):
    """What is to be shifted, so that exponent and fraction of the small number remain."""
    exponent = magnitude >> 23
    significand = select(exponent == 0, 0, (magnitude & 0x7FFFFF) | 0x800000)
    return select(exponent > base, magnitude - (base << 23), significand)


def small_shift(magnitude, base, shift):
    """By how much: more where the small number has no leading 1."""
    exponent = magnitude >> 23
    longer = shift + select(exponent > base, 0, base + 1 - exponent)
    return select(longer > 31, 31, longer)


def small_nearest(magnitude, base, shift):
    word = small_word(magnitude, base)
    by = small_shift(magnitude, base, shift)
    return (word + (((1 << by) >> 1) - 1) + ((word >> by) & 1)) >> by


def small_stochastic(magnitude, base, shift, random):
    word = small_word(magnitude, base)
    by = small_shift(magnitude, base, shift)
    return (word + (random >> (32 - by))) >> by


# --- float16 ----------------------------------------------------------------------------------------------------------


def float16_decoded(code):
    magnitude = code & 0x7FFF
    normal = (magnitude << 13) + select(magnitude < 0x7C00, 112 << 23, 224 << 23)
    multiple = larger(whole(magnitude) - (24 << 23), 0)  # without the leading 1: of the smallest number
    return ((code & 0x8000) << 16) | select(magnitude < 0x400, multiple, normal)


def float16_of(bits, rounded):
    """The code with this rounded magnitude; infinity beyond the largest number, and NaN for NaN."""
    magnitude = bits & 0x7FFFFFFF
    code = select(magnitude > 0x7F800000, 0x7E00, select(rounded > 0x7C00, 0x7C00, rounded))
    return ((bits >> 16) & 0x8000) | code


def float16_nearest(bits):
    magnitude = bits & 0x7FFFFFFF
    return float16_of(bits, small_nearest(magnitude, 112, 13))


def float16_stochastic(bits, random):
    magnitude = bits & 0x7FFFFFFF
    return float16_of(bits, small_stochastic(magnitude, 112, 13, random))


# --- 8 bits, relative to the largest of a block -----------------------------------------------------------------------
#
# A block of numbers shares `base`: a number is 2^(base + exponent - 127) * 1.fraction, and the largest of the block has
# the largest exponent. `float8` has a sign, 4 bits of exponent and 3 of fraction. `unsigned_float8` has no sign; its
# exponents are 0 to 23, and the fraction has 3 bits up to exponent 15 and 4 bits above. The code 0 is the number 0, and
# in `float8` also what is below 2^-15 of the largest. In a block with an infinity or a NaN, the base is 255 less the
# largest exponent, and small numbers are lost.


def base_of(exponent, largest):
    """The base of a block whose largest number has this exponent, 255 for infinities and NaN."""
    found = select(exponent > largest, exponent - largest, 0)
    return select(found > 255 - largest, 255 - largest, found)


def float8_base(largest):
    """The base of a block; `largest` are the largest bits without sign. Rounding up does not exceed exponent 15."""
    return base_of((largest + 0xFFFFF) >> 23, 15)


def float8_decoded(code, base):
    extended = (code ^ 0x80) - 0x80  # the sign in all upper bits
    return ((extended << 20) & 0x87F00000) + select((code & 0x7F) == 0, 0, base << 23)


def float8_of(bits, base, addend):
    """The code: the sign, and the upper bits of a sum. NaN stay NaN."""
    smallest = base << 23
    above = larger(bits & 0x7FFFFFFF, smallest) + (addend - smallest)
    return ((smaller(above, 0x7FFFFFF) << 4) | (bits & 0x80000000)) >> 24


def float8_nearest(bits, base):
    return float8_of(bits, base, 0x80000)


def float8_stochastic(bits, base, random):
    return float8_of(bits, base, random >> 12)


def unsigned_float8_base(largest):
    return base_of((largest + 0x7FFFF) >> 23, 23)


def unsigned_float8_decoded(code, base):
    return select(code == 0, 0, (smaller(code + code, code + 128) << 19) + (base << 23))


def unsigned_float8_of(bits, base, coarse, fine):
    """The code, given what to add for each of the fractions; 0 stands for 0 alone, since a second moment of 0 would
    divide by `eps`.

    Of the two roundings the larger is right: up to exponent 15 a unit of `coarse` is two of `fine`, from 16 on codes
    count those of `fine`, less 128.
    """
    magnitude = bits & 0x7FFFFFFF
    above = magnitude - (base << 23)  # below 0 for what is smaller than the smallest
    code = larger(shifted(above + coarse, 20), shifted(above + fine - 0x4000000, 19))
    return smaller(larger(code, smaller(magnitude, 1)), 0xFF)


def unsigned_float8_nearest(bits, base):
    return unsigned_float8_of(bits, base, 0x80000, 0x40000)


def unsigned_float8_stochastic(bits, base, random):
    return unsigned_float8_of(bits, base, random >> 12, random >> 13)
