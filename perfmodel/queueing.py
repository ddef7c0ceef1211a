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


def exceedance(
    threshold_s: FloatArray,
    probability: FloatArray,
    mean_s: FloatArray,
    step_s: FloatArray | float = 0.0,
    running: FloatArray | float = 0.0,
) -> FloatArray:
    """P(wait > threshold): the wait for a server, and for the end of a step that is running.

    The former is 0 with `1 - probability`, else exponential. The latter is independent of it: an
    arrival falls anywhere into a step, so that what is left is spread evenly over its length.

    Args:
        probability: of waiting for a server at all.
        mean_s: mean wait for a server, over all arrivals.
        step_s: length of a step.
        running: probability that one is running when a request arrives.
    """
    scale = np.clip(mean_s / np.maximum(probability, 1e-300), 1e-300, 1e200)
    after = np.maximum(threshold_s, 0.0)
    tail = probability * np.exp(-after / scale)
    if np.any(running):
        length = np.maximum(step_s, 1e-300)
        within = np.minimum(after, length)
        left = 1.0 - within / length
        # Of both together: the exponential's tail, averaged over what is left of the step.
        mean_tail = -scale / length * np.exp(-(after - within) / scale) * np.expm1(-within / scale)
        tail = (1.0 - running) * tail + running * (left + probability * mean_tail)
    result: FloatArray = np.where(threshold_s < 0.0, 1.0, tail)
    return result
