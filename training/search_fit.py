"""Which mixtures to try, and what the runs say about the best one: pure functions of numbers.

The regression is a Gaussian process from the parts' weights to the goal, the mean bits per byte over languages; RegMix
(https://arxiv.org/abs/2407.01492) has linear models and trees. It was chosen by trying, on made-up searches whose best mixture
is known: four parts, 16 and 24 runs, losses that fall exponentially or as a power of a part's tokens (as in the tests). A
quadratic Scheffe polynomial was refused: on the powers it lost ten times as much. One process a language, summed, was refused
too: chance that moves all languages of a run alike is then taken for what its mixture did. Weights enter as they are or as
square roots, whichever makes the observations likelier. The mixtures to try lie far apart: 16 of these say as much as 24 drawn
at random.

Shapes: T trials, P parts, L languages, C candidate mixtures, S draws.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..catalog.errors import MissingDependency

Floats = npt.NDArray[np.float64]

GRID = 1000
"""Weights are whole multiples of 1 / GRID: recipes that one can read."""
CANDIDATES = 4000
"""Mixtures among which the next one to try, and the best one, are looked for."""
DRAWN = 500
"""Mixtures on which whole functions are drawn; the cost is their cube."""
DRAWS = 400
"""Functions drawn from the posterior, each with a best mixture of its own."""
LEVEL = 0.9
"""Share of these best mixtures that an interval holds."""
SWEEPS = 30
"""Passes over all pairs of parts of the sampler."""
DIVERGED = 3.0
"""A run whose bits per byte of a language are so many times the median over runs has diverged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """The best mixture, by the runs."""

    weights_P: Floats
    """Its weights; they sum to 1."""
    lower_P: Floats
    """Lower ends of the weights' intervals of 90%."""
    upper_P: Floats
    """Upper ends."""
    goal: float
    """Predicted mean of bits per byte."""
    stderr: float
    """Its standard error, chance of a single run not included."""
    bits_L: Floats
    """Predicted bits per byte of each language."""
    rank_correlation: float
    """Spearman's, between the goal of each run and its prediction from all others: below 0.5 the suggestion says little."""
    error: float
    """Root mean square difference between the two."""


def feasible(lower_P: Floats, upper_P: Floats, count: int, seed: int) -> Floats:
    """Mixtures drawn uniformly from those within the bounds, (count, P); raises ValueError when there are none.

    Two parts at a time share anew what they have together (Gibbs sampling): it does not slow down in narrow bounds, as drawing
    from the whole simplex until one fits does.
    """
    if (lower_P > upper_P).any() or lower_P.sum() > 1 + 1e-9 or upper_P.sum() < 1 - 1e-9:
        raise ValueError(f"no mixture lies within {lower_P.tolist()} and {upper_P.tolist()}")
    draw = np.random.default_rng(seed)
    spare = upper_P - lower_P
    start_P = lower_P + spare * ((1 - lower_P.sum()) / max(float(spare.sum()), 1e-12))
    weights_CP = np.tile(start_P, (count, 1))
    for _ in range(SWEEPS):
        for first in range(len(lower_P)):
            for second in range(first):
                both_C = weights_CP[:, first] + weights_CP[:, second]
                low_C = np.maximum(lower_P[first], both_C - upper_P[second])
                high_C = np.minimum(upper_P[first], both_C - lower_P[second])
                weights_CP[:, first] = low_C + draw.random(count) * np.maximum(high_C - low_C, 0)
                weights_CP[:, second] = both_C - weights_CP[:, first]
    return weights_CP


def design(lower_P: Floats, upper_P: Floats, trials: int, seed: int) -> Floats:
    """The mixtures to try, (T, P), on the grid: the middle, then always the one farthest from those before.

    The first mixtures of a longer design are those of a shorter one. Raises ValueError when the bounds hold too few.
    """
    candidates_CP = on_grid(feasible(lower_P, upper_P, CANDIDATES, seed), lower_P, upper_P)
    chosen = [int(((candidates_CP - candidates_CP.mean(0)) ** 2).sum(1).argmin())]
    nearest_C = np.full(len(candidates_CP), np.inf)
    while len(chosen) < trials:
        nearest_C = np.minimum(nearest_C, ((candidates_CP - candidates_CP[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(nearest_C.argmax()))
        if nearest_C[chosen[-1]] == 0:
            raise ValueError(f"the bounds hold {len(chosen) - 1} different mixtures, not {trials}")
    return candidates_CP[chosen]


def on_grid(weights_CP: Floats, lower_P: Floats, upper_P: Floats) -> Floats:
    """Mixtures rounded to whole multiples of 1 / GRID that sum to 1 (largest remainder); bounds on the grid stay kept."""
    exact_CP = np.clip(weights_CP, lower_P, upper_P) * GRID
    whole_CP = np.floor(exact_CP + 1e-6)
    missing_C = (GRID - whole_CP.sum(1)).astype(int)
    order_CP = np.argsort(whole_CP - exact_CP, axis=1, kind="stable")
    rank_CP = np.argsort(order_CP, axis=1, kind="stable")
    whole_CP += rank_CP < missing_C[:, None]
    rounded: Floats = whole_CP / GRID
    return rounded


def diverged(bits_TL: Floats) -> npt.NDArray[np.bool_]:
    """Which runs have diverged: figures that are not finite, or far above the other runs'; (T,)."""
    finite_TL = np.isfinite(bits_TL)
    finite_T: npt.NDArray[np.bool_] = np.all(finite_TL, axis=1)
    if not finite_T.any():
        return np.logical_not(finite_T)
    far_TL = np.where(finite_TL, bits_TL, np.inf) > DIVERGED * np.median(bits_TL[finite_T], axis=0)
    found: npt.NDArray[np.bool_] = np.any(far_TL, axis=1)
    return found


def suggest(weights_TP: Floats, bits_TL: Floats, goal_L: Floats, lower_P: Floats, upper_P: Floats, seed: int) -> Suggestion:
    """The mixture within the bounds whose mean bits per byte, weighted by `goal_L` (which sums to 1), is predicted least.

    An interval is that of the best mixtures of functions drawn from the posterior: as wide as what the runs leave open, and as
    the trough is flat.
    """
    goal_T = bits_TL @ goal_L
    candidates_CP = on_grid(np.concatenate([feasible(lower_P, upper_P, CANDIDATES, seed), weights_TP]), lower_P, upper_P)
    process = _fitted(weights_TP, goal_T)
    mean_C, cov_CC = process.posterior(candidates_CP[:DRAWN])
    goal_C = process.mean(candidates_CP)
    best = int(goal_C.argmin())
    best_mean, best_cov = process.posterior(candidates_CP[best : best + 1])
    draw = np.random.default_rng(seed)
    values_C, vectors_CC = np.linalg.eigh(cov_CC)  # not Cholesky's: all but singular where the function is smooth
    roots_C = np.sqrt(np.maximum(values_C, 0))
    drawn_CS = mean_C[:, None] + vectors_CC @ (roots_C[:, None] * draw.standard_normal((len(mean_C), DRAWS)))
    optima_SP = candidates_CP[drawn_CS.argmin(0)]
    tail = (1 - LEVEL) / 2
    without_T = process.left_out(weights_TP, goal_T)
    return Suggestion(
        weights_P=candidates_CP[best],
        lower_P=np.minimum(np.quantile(optima_SP, tail, axis=0), candidates_CP[best]),
        upper_P=np.maximum(np.quantile(optima_SP, 1 - tail, axis=0), candidates_CP[best]),
        goal=float(best_mean[0]),
        stderr=float(np.sqrt(max(best_cov[0, 0], 0.0))),
        bits_L=np.array([_fitted(weights_TP, bits_T).mean(candidates_CP[best : best + 1])[0] for bits_T in bits_TL.T]),
        rank_correlation=_rank_correlation(goal_T, without_T),
        error=float(np.sqrt(((goal_T - without_T) ** 2).mean())),
    )


@dataclass(frozen=True, slots=True)
class _Process:
    """A fitted Gaussian process over transformed weights."""

    regressor: Any
    transform: Callable[[Floats], Floats]
    noise: float
    """Variance that is the chance of a single run."""

    def mean(self, weights_CP: Floats) -> Floats:
        """Predicted values."""
        found: Floats = self.regressor.predict(self.transform(weights_CP))
        return found

    def posterior(self, weights_CP: Floats) -> tuple[Floats, Floats]:
        """Predicted values and their covariance, the chance of a single run taken out."""
        mean_C, cov_CC = self.regressor.predict(self.transform(weights_CP), return_cov=True)
        return mean_C, cov_CC - self.noise * np.eye(len(cov_CC))

    def left_out(self, weights_TP: Floats, values_T: Floats) -> Floats:
        """Each value predicted from the others alone, to which the kernel is fitted anew."""
        found_T = np.empty(len(values_T))
        for trial in range(len(values_T)):
            others_T = np.arange(len(values_T)) != trial
            regressor = _regressor(self.regressor.kernel_, self.transform(weights_TP[others_T]), values_T[others_T])
            found_T[trial] = regressor.predict(self.transform(weights_TP[trial : trial + 1]))[0]
        return found_T


def _fitted(weights_TP: Floats, values_T: Floats) -> _Process:
    """The process, over weights or their square roots, under which the values are likelier."""
    try:
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    except ImportError as error:
        raise MissingDependency("scikit-learn", "for a mixture search") from error
    kernel = ConstantKernel(1.0, (1e-2, 1e3)) * RBF(1.0, (0.1, 10.0)) + WhiteKernel(1e-2, (1e-6, 1.0))
    processes = []
    for transform in (np.asarray, np.sqrt):
        regressor = _regressor(kernel, transform(weights_TP), values_T)
        noise = regressor.kernel_.k2.noise_level * float(values_T.std()) ** 2
        processes.append(_Process(regressor, transform, noise))
    return max(processes, key=lambda process: float(process.regressor.log_marginal_likelihood_value_))


def _regressor(kernel: Any, inputs_TP: Floats, values_T: Floats) -> Any:
    """scikit-learn's Gaussian process, its kernel fitted from `kernel` on."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length or a noise at its bound is an answer
        return GaussianProcessRegressor(kernel, normalize_y=True).fit(inputs_TP, values_T)


def _rank_correlation(values_T: Floats, others_T: Floats) -> float:
    """Spearman's; 0 where all values are the same."""
    from scipy.stats import rankdata

    if not (np.ptp(values_T) and np.ptp(others_T)):
        return 0.0
    return float(np.corrcoef(rankdata(values_T), rankdata(others_T))[0, 1])
