"""Five numbers that tell whether embeddings are spread out or collapsed. Functions of rows `m d`, without gradient.

| | collapsed to a point | spread evenly over the sphere |
|---|---|---|
| `feature_std` | 0 | 1 / sqrt(d) |
| `effective_rank` | 1 | min(m - 1, d) |
| `spectrum_tail` | 0 | 1/2, or less of few rows |
| `uniformity` | 0 | about -4 |

Float32 whatever the rows' type. Identical rows, zero rows and a single row give the collapsed value, not NaN; rows
that are not finite give NaN.
"""

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def feature_std(rows: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """Mean over the dimensions of the standard deviation of the L2-normalised rows; in [0, 1/sqrt(d)].

    Chen & He 2021 (SimSiam), figure 2. The deviation is that of the population (divided by m).
    """
    unit = F.normalize(rows.float(), dim=1)
    # Measured from the first row, equal rows deviate by exactly 0 and not by the rounding of their mean.
    return (unit - unit[0]).std(dim=0, correction=0).mean()


@torch.no_grad()
def effective_rank(rows: Float[Tensor, "m d"], centred: bool = True) -> Float[Tensor, ""]:
    """How many directions the rows use: exp of the entropy of their singular values; in [1, min(m, d)].

    Roy & Vetterli 2007: p = sigma / sum(sigma), rank = exp(-sum p log p). By default the rows' mean is subtracted
    first. That sees a collapse onto few directions wherever its centre lies, but of rows that all but agree it measures
    the small differences that are left: read it together with `feature_std`, or with `centred=False` (RankMe,
    Garrido et al. 2023), which tends to 1 as the rows become one point. Singular values below 1e-6 of the rows'
    Frobenius norm are rounding and count as 0; when none is left the rank is 1.
    """
    sigma = _singular_values(rows, centred)
    p = sigma / sigma.sum().clamp_min(torch.finfo(sigma.dtype).tiny)
    return (-torch.xlogy(p, p).sum()).exp().float()


@torch.no_grad()
def spectrum_tail(rows: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """Share of the rows' variance in the weaker half of d directions, rounded down; in [0, 1/2].

    Near 0 embeddings fill a part of their space only, as in the dimensional collapse of Jing et al. 2022
    (arXiv:2110.09348), figure 2, of which it is one number. No more than d / 2 + 1 rows give 0.
    """
    variances = _singular_values(rows, centred=True).square()
    weaker = variances.sort(descending=True).values[(rows.shape[1] + 1) // 2 :]
    return (weaker.sum() / variances.sum().clamp_min(torch.finfo(variances.dtype).tiny)).float()


def _singular_values(rows: Float[Tensor, "m d"], centred: bool) -> Float[Tensor, "r"]:
    """In float64, in no order; those below 1e-6 of the rows' norm as 0, and NaN where rows are not finite."""
    # A Gram matrix squares the singular values, so float32 would lose half of their digits (and autocast more).
    x = rows.double()
    floor = 1e-6 * torch.linalg.matrix_norm(x)
    if centred:
        x = x - x.mean(dim=0)
    gram = einsum(x, x, "m i, m j -> i j") if x.shape[0] > x.shape[1] else einsum(x, x, "i d, j d -> i j")
    if not gram.isfinite().all():
        return gram.new_full((len(gram),), torch.nan)
    sigma = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    return sigma * (sigma > floor)


@torch.no_grad()
def alignment(rows: Float[Tensor, "m d"], positives: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """Mean squared distance of L2-normalised positive pairs, row by row; in [0, 4], lower is closer.

    Wang & Isola 2020, alpha = 2.
    """
    apart = F.normalize(rows.float(), dim=1) - F.normalize(positives.float(), dim=1)
    return apart.square().sum(dim=1).mean()


@torch.no_grad()
def uniformity(rows: Float[Tensor, "m d"], t: float = 2.0) -> Float[Tensor, ""]:
    """Log of the mean of exp(-t distance^2) over all pairs of different L2-normalised rows; in [-4 t, 0], 0 is a point.

    Wang & Isola 2020. O(m^2 d): give it a batch, not a data set. A single row gives 0.
    """
    squared = F.pdist(F.normalize(rows.float(), dim=1)).square()
    if len(squared) == 0:
        return squared.new_zeros(())
    return torch.logsumexp(-t * squared, dim=0) - torch.tensor(len(squared)).log()
