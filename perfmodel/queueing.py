"""Waiting times in front of a pool of identical servers (G/G/c), as closed forms.

References:
    .. [1] H. Sakasegawa, "An approximation formula L_q = a rho^b / (1 - rho)", Annals of
       the Institute of Statistical Mathematics 29 (1977).
    .. [2] A. O. Allen, Probability, Statistics, and Queueing Theory (1990), section 5.4
       (the Allen-Cunneen correction for variability).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def wait_probability(servers: FloatArray, utilization: FloatArray) -> FloatArray:
    """Probability that an arrival finds every server busy [1]_; 1 at full utilization."""
    exponent = np.sqrt(2.0 * (servers + 1.0)) - 1.0
    result: FloatArray = np.clip(utilization, 0.0, 1.0) ** exponent
    return result


def mean_wait_s(
    servers: FloatArray,
    utilization: FloatArray,
    service_s: FloatArray,
    arrival_cv2: FloatArray | float = 1.0,
    service_cv2: FloatArray | float = 0.0,
) -> FloatArray:
    """Mean waiting time before service [1]_ [2]_, seconds; infinite at full utilization.

    Args:
        servers: number of identical servers fed by one queue.
        utilization: offered load over capacity.
        service_s: mean service time.
        arrival_cv2: squared coefficient of variation of inter-arrival times (Poisson: 1).
        service_cv2: the same of service times (constant: 0).
    """
    utilization = np.asarray(utilization, dtype=float)
    spare = np.maximum(1.0 - utilization, 1e-12)
    variability = (np.asarray(arrival_cv2) + np.asarray(service_cv2)) / 2.0
    wait = variability * wait_probability(servers, utilization) * service_s / (servers * spare)
    result: FloatArray = np.where(utilization < 1.0, wait, np.inf)
    return result


def exceedance(threshold_s: FloatArray, probability: FloatArray, mean_s: FloatArray) -> FloatArray:
    """P(wait > threshold): the wait is 0 with `1 - probability`, else exponential.

    Args:
        probability: of waiting at all.
        mean_s: mean wait, over all arrivals.
    """
    scale = np.maximum(mean_s / np.maximum(probability, 1e-300), 1e-300)
    tail = probability * np.exp(-np.maximum(threshold_s, 0.0) / scale)
    result: FloatArray = np.where(threshold_s < 0.0, 1.0, tail)
    return result
