"""Rate-My-LoRA and other methods of the field by name, each as a combination of configuration keys.

A new combination of existing choices is one entry here. :mod:`common.method` explains the keys;
the equations are in :mod:`strategies.merging`, :mod:`strategies.weighting` and
:mod:`strategies.rules`. In the entries c is a site, t a round, n_c the site's number of training
slices, m_c its mass, and ΔW = s·B·A the weight change of an adapter with scale s.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.errors import UserError
from common.options import Value

EXAMPLES: dict[str, Value] = {"share": "examples", "rating": "none"}
EQUAL: dict[str, Value] = {"ranks": "equal", "merge": "pad"}


@dataclass(frozen=True)
class Method:
    """A method of the field."""

    title: str
    """The method in one line."""
    source: str
    """The paper, with its equation or algorithm."""
    equation: str
    """How the next round's start comes from the sites' updates."""
    keys: Mapping[str, Value] = field(default_factory=dict)
    """Keys of the run configuration that differ from the defaults."""
    note: str = ""
    """Differences of this implementation from the source."""


METHODS: Mapping[str, Method] = {
    "local": Method(
        "every site alone, no federation: the floor",
        "–",
        "X_c(t) = train(X_c(t−1))",
        {"sends": "none", "merge": "pad", "rating": "none"},
    ),
    "centralised": Method(
        "one adapter on all sites' data: the ceiling, in simulation only",
        "–",
        "X(t) = train(X(t−1)) on the union of the sites' training patients",
        {"pool": True, "sites": 1, "min-sites": 1, "ranks": "equal", "rating": "none"},
    ),
    "fedavg": Method(
        "full weights, averaged by examples",
        "McMahan et al., AISTATS 2017, arXiv 1602.05629, Algorithm 1",
        "W(t) = Σ_c n_c W_c(t) / Σ n",
        {"trains": "weights", "merge": "pad", **EXAMPLES},
    ),
    "fedprox": Method(
        "fedavg with a proximal term in the local loss",
        "Li et al., MLSys 2020, arXiv 1812.06127, Eq. 2",
        "W(t) = Σ_c n_c W_c(t) / Σ n; loss + μ/2 ‖W − W(t−1)‖²",
        {"trains": "weights", "merge": "pad", "proximal": 0.01, **EXAMPLES},
    ),
    "fedit": Method(
        "LoRA factors averaged by examples, equal ranks",
        "Zhang et al., ICASSP 2024, arXiv 2305.05644",
        "A(t) = Σ n_c A_c / Σ n, B(t) = Σ n_c B_c / Σ n",
        {**EQUAL, **EXAMPLES},
    ),
    "ffa-lora": Method(
        "A frozen and the same everywhere, drawn from the seed; only B trains and travels",
        "Sun et al., ICLR 2024, arXiv 2403.12313",
        "A(t) = A(0), B(t) = Σ n_c B_c / Σ n: with A fixed the mean of B is exact",
        {**EQUAL, "factors": "B", **EXAMPLES},
        "by examples; the paper has equal shares of data",
    ),
    "hetlora": Method(
        "zero-padded factors of mixed ranks, weighted by the norm of BA, truncated for each site",
        "Cho et al., EMNLP 2024, arXiv 2401.06432",
        "A(t) = Σ m_c pad(A_c), B(t) = Σ m_c pad(B_c), m_c = ‖B_c A_c‖ / Σ ‖B A‖",
        {"merge": "pad", "share": "norm", "rating": "none"},
        "ranks do not shrink during training (the paper's self-pruning is left out)",
    ),
    "flexlora": Method(
        "mean of the products, taken back to each site's rank by SVD",
        "Bai et al., NeurIPS 2024, arXiv 2402.11505",
        "ΔW(t) = SVD_r(Σ n_c s·B_c A_c / Σ n)",
        {"merge": "svd", **EXAMPLES},
    ),
    "flora": Method(
        "stacked factors, folded into every site's base; adapters begin anew",
        "Wang et al., NeurIPS 2024, arXiv 2409.05976",
        "W(t) = W(t−1) + [m_1 B_1 … m_N B_N][A_1; …; A_N], m_c = n_c / Σ n",
        {"merge": "fold", **EXAMPLES},
    ),
    "fedsa-lora": Method(
        "A is shared, B stays at its site",
        "Guo et al., ICLR 2025, arXiv 2410.01463",
        "A(t) = Σ n_c A_c / Σ n, B_c its own",
        {**EQUAL, "sends": "A", **EXAMPLES},
    ),
    "rolora": Method(
        "A and B trained and averaged in alternate rounds, B first",
        "Chen et al., 2025, arXiv 2502.01755",
        "odd t: B(t) = Σ n_c B_c / Σ n; even t: A(t) = Σ n_c A_c / Σ n",
        {**EQUAL, "factors": "alternate", **EXAMPLES},
    ),
    "fedex-lora": Method(
        "mean of the factors, and its exact residual folded into the base",
        "Singhal et al., ACL 2025, arXiv 2410.09432",
        "A, B as fedit; W(t) = W(t−1) + s·(Σ m_c B_c A_c − B(t) A(t))",
        {**EQUAL, "merge": "residual", **EXAMPLES},
    ),
    "feddg-ga": Method(
        "site shares moved by the gap between its own and the merged validation",
        "Zhang et al., CVPR 2023, Generalization Adjustment",
        "a_c ← a_c + d_t·(gap_c − mean gap) / max|gap − mean gap|, normalised",
        {"merge": "svd", "rating": "gap"},
        "on adapters; the gap is of Dice, not of the loss",
    ),
    "rate-my-lora": Method(
        "ours: equal shares, sites that gained while another lost damped by 1 − λ_t",
        "He et al., ISBI 2025, arXiv 2501.03223, Eq. 1",
        "ΔW(t) = SVD_r(Σ m_c s·B_c A_c), m_c ~ w_t(c)",
        {},
    ),
    "rate-my-lora-pad": Method(
        "ours with averaged factors",
        "He et al., ISBI 2025, arXiv 2501.03223, Eq. 1",
        "A(t) = Σ m_c pad(A_c), B(t) = Σ m_c pad(B_c), m_c ~ w_t(c)",
        {"merge": "pad"},
    ),
    "rate-my-lora-fold": Method(
        "ours as the paper's formula has it: increments folded, not normalised, by examples",
        "He et al., ISBI 2025, arXiv 2501.03223, Eq. 1",
        "W(t) = W(t−1) + Σ w_t(c) n_c s·B_c A_c / Σ n; adapters begin anew",
        {"merge": "fold", "share": "examples"},
    ),
}


def preset_keys(name: Value, source: str) -> dict[str, Value]:
    """Return the keys of a method, or none for an empty name.

    Raises
    ------
    UserError
        There is no such method; the text begins with ``source``.
    """
    if not name:
        return {}
    if name not in METHODS:
        raise UserError(f"{source}: preset: found {name!r}, expected one of {sorted(METHODS)}")
    return dict(METHODS[str(name)].keys)
