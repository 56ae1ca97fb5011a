"""A start for the embeddings: a low-rank factorisation of positive pointwise mutual information (PPMI).

Levy and Goldberg (2014): word vectors from a factorised PPMI matrix are close to those that skip-gram learns, at a
fraction of the cost, so the first thousands of pretraining steps need not rediscover them.
"""

import numpy as np
import scipy.sparse
from sklearn.utils.extmath import randomized_svd

CONTEXT = 4
DISCOUNT = 0.75  # context counts to this power, so that rare contexts do not dominate


def ppmi_embeddings(ids: np.ndarray, vocab_size: int, width: int, seed: int = 0) -> np.ndarray:
    """[vocab_size, width] float32 of unit mean square, from co-occurrence within `CONTEXT` tokens of flat `ids`."""
    counts = scipy.sparse.csr_matrix((vocab_size, vocab_size), dtype=np.float32)
    for distance in range(1, CONTEXT + 1):
        pairs = np.ones(len(ids) - distance, dtype=np.float32) / distance
        counts += scipy.sparse.coo_matrix(
            (pairs, (ids[:-distance], ids[distance:])), shape=(vocab_size, vocab_size)
        ).tocsr()
    counts = (counts + counts.T).tocoo()
    row_sums = np.asarray(counts.sum(axis=1)).ravel()
    context = row_sums**DISCOUNT
    context /= context.sum()
    with np.errstate(divide="ignore"):
        mutual_information = np.log(counts.data / (row_sums[counts.row] * context[counts.col]))
    positive = scipy.sparse.csr_matrix(
        (np.maximum(mutual_information, 0), (counts.row, counts.col)), shape=counts.shape, dtype=np.float32
    )
    u, singular_values, _ = randomized_svd(positive, width, n_iter=4, random_state=seed)
    vectors = u * np.sqrt(singular_values)
    used = (row_sums > 0) & (np.abs(vectors).sum(axis=1) > 0)
    vectors[used] /= np.sqrt(np.mean(vectors[used] ** 2, axis=1, keepdims=True))
    vectors[~used] = np.random.default_rng(seed).standard_normal((int((~used).sum()), width))
    return vectors.astype(np.float32)
