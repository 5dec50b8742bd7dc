"""Code lengths of optimal prefix codes, with and without a limit on the length."""

from __future__ import annotations

import numpy as np

from nqbench_coders.kernels import kernel


@kernel
def huffman_lengths(total: np.ndarray, parent: np.ndarray) -> None:
    """Lengths of an optimal prefix code (Huffman 1952) by two queues, linear in m >= 2.

    total: (2 m - 1,) int64, the nodes of the tree in the order in which they are merged, leaves first: the first m are
    the weights, rising; they are replaced by the lengths, descending. parent: (2 m - 1,) int64, working memory.
    """
    m = (total.size + 1) // 2
    leaf, inner = 0, m
    for node in range(m, 2 * m - 1):
        weight = 0
        for _ in range(2):
            # of equal weights the leaf goes first, which gives a shorter longest code
            if leaf < m and (inner >= node or total[leaf] <= total[inner]):
                weight += total[leaf]
                parent[leaf] = node
                leaf += 1
            else:
                weight += total[inner]
                parent[inner] = node
                inner += 1
        total[node] = weight
    total[2 * m - 2] = 0  # from here on, total holds depths
    for node in range(2 * m - 3, -1, -1):
        total[node] = total[parent[node]] + 1


@kernel
def merge_level(weights: np.ndarray, packages: np.ndarray, merged: np.ndarray, is_leaf: np.ndarray) -> int:
    """One level of package-merge: leaves and the packages of the level below, merged by weight.

    Fills ``merged`` (int64) and ``is_leaf`` (bool), both of weights.size + packages.size entries.
    """
    a, b = 0, 0
    for i in range(weights.size + packages.size):
        if b >= packages.size or (a < weights.size and weights[a] <= packages[b]):
            merged[i] = weights[a]
            is_leaf[i] = True
            a += 1
        else:
            merged[i] = packages[b]
            is_leaf[i] = False
            b += 1
    return a


def limited_lengths(weights: np.ndarray, limit: int) -> np.ndarray:
    """Lengths of the best prefix code with no length above ``limit``: package-merge (Larmore and Hirschberg 1990).

    weights: (m,) int64 > 0, ascending, 2 <= m <= 2^limit. Returns (m,) int64, descending. For each level only one bit
    per item is kept: whether it is a leaf.
    """
    m = weights.size
    levels: list[tuple[np.ndarray, int]] = []
    packages = np.empty(0, dtype=np.int64)
    for _ in range(limit):
        merged = np.empty(m + packages.size, dtype=np.int64)
        is_leaf = np.empty(merged.size, dtype=np.bool_)
        merge_level(weights, packages, merged, is_leaf)
        levels.append((np.packbits(is_leaf), merged.size))
        pairs = merged.size // 2
        packages = merged[0 : 2 * pairs : 2] + merged[1 : 2 * pairs : 2]
    lengths = np.zeros(m, dtype=np.int64)
    taken = 2 * m - 2
    for bits, size in reversed(levels):
        leaves = int(np.unpackbits(bits, count=size)[:taken].sum())
        lengths[:leaves] += 1
        taken = 2 * (taken - leaves)
    return lengths


def code_lengths(counts: np.ndarray, limit: int) -> np.ndarray:
    """counts: (m,) int64 > 0 in any order -> (m,) int64 lengths of the best prefix code within the limit.

    A single symbol has length 0: nothing needs to be coded.
    """
    if counts.size == 1:
        return np.zeros(1, dtype=np.int64)
    order = np.argsort(counts, kind="stable")
    rising = np.ascontiguousarray(counts[order], dtype=np.int64)
    nodes = np.concatenate([rising, np.empty(rising.size - 1, dtype=np.int64)])
    huffman_lengths(nodes, np.empty_like(nodes))
    lengths = nodes[: rising.size]
    if int(lengths[0]) > limit:
        lengths = limited_lengths(rising, limit)
    out = np.empty(counts.size, dtype=np.int64)
    out[order] = lengths
    return out
