"""The crate's seeded noise in Python: FNV-1a and SplitMix64 make a key, ChaCha8 the bits, Box-Muller the numbers.

Lets a Python program start from the very latents that `Pipeline::noise` draws for a seed.
"""
import math
import struct

MASK = (1 << 64) - 1


def _key(seed, purpose, item):
    h = 0xCBF29CE484222325
    for byte in struct.pack("<Q", seed) + purpose.encode() + struct.pack("<Q", item):
        h = ((h ^ byte) * 0x0100000001B3) & MASK
    key = b""
    for _ in range(4):
        h = (h + 0x9E3779B97F4A7C15) & MASK
        z = h
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        key += struct.pack("<Q", z ^ (z >> 31))
    return key


def _words(key):
    """ChaCha with 8 rounds, 64-bit block counter from 0, nonce 0."""
    rotate = lambda v, n: ((v << n) | (v >> (32 - n))) & 0xFFFFFFFF
    counter = 0
    while True:
        start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *struct.unpack("<8I", key),
                 counter & 0xFFFFFFFF, counter >> 32, 0, 0]
        s = list(start)
        for _ in range(4):
            for a, b, c, d in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                               (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
                for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                    s[x] = (s[x] + s[y]) & 0xFFFFFFFF
                    s[z] = rotate(s[z] ^ s[x], n)
        yield from ((x + y) & 0xFFFFFFFF for x, y in zip(s, start))
        counter += 1


def normals(seed, purpose, item, n):
    """n standard normal numbers from the stream (seed, purpose, item)."""
    words = _words(_key(seed, purpose, item))
    uniform = lambda: ((next(words) | next(words) << 32) >> 11) / (1 << 53)
    out = []
    while len(out) < n:
        u, v = 1.0 - uniform(), uniform()
        radius = math.sqrt(-2.0 * math.log(u))
        out += [radius * math.cos(math.tau * v), radius * math.sin(math.tau * v)]
    return out[:n]


def latents(seed, channels, height, width):
    """Initial latents [1, channels, height, width] of one picture, as a tensor."""
    import torch

    return torch.tensor(normals(seed, "latents", 0, channels * height * width)).reshape(1, channels, height, width)
