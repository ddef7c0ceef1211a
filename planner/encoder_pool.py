"""Devices that do nothing but encode images (`planner.encoder` sizes them)."""

from __future__ import annotations

from dataclasses import dataclass

from planner.problem import Offer


@dataclass(frozen=True)
class EncoderPool:
    """Devices that encode images, one replica each.

    Attributes:
        service_s: the images of one request.
        waiting_s: mean, in front of the pool at the demand it was sized for.
        transfer_s: of their embeddings over the network.
        qps_each: requests/s that one device takes.
        memory_bytes: on one device, all terms together.
        kinds: seconds of `service_s` by how they are known.
    """

    offer: Offer
    replicas: int
    service_s: float
    waiting_s: float
    transfer_s: float
    qps_each: float
    memory_bytes: float
    kinds: dict[str, float]

    @property
    def delay_s(self) -> float:
        """What it adds to a request's first token, seconds."""
        return self.service_s + self.waiting_s + self.transfer_s

    @property
    def usd_per_hour(self) -> float:
        """Price of its devices, hosts' others apart."""
        return self.replicas * self.offer.usd_per_device_hour

    @property
    def qps(self) -> float:
        """Capacity of all its devices, requests/s."""
        return self.qps_each * self.replicas
