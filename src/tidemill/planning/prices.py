"""What a month of CPU, memory and disk costs, and what that makes of a million predictions."""

from __future__ import annotations

from typing import Annotated

import msgspec

GB = 1 << 30
"""A gigabyte as it is sold: 2^30 bytes."""

MONTH_S = 730 * 3600.0
"""A month as it is billed: 730 hours."""

NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Prices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices in one currency; the defaults are US dollars.

    The defaults are what Google lists for N2 machines and balanced disks in Iowa, on demand,
    rounded: 0.0316 a vCPU hour, 0.00424 a GB of memory an hour, 0.10 a GB of disk a month. Prices
    of others differ less from these than they do from one another by contract.

    Args:
        cpu_hour: an hour of one core.
        memory_gb_month: a GB of memory for a month.
        disk_gb_month: a GB of disk for a month.
        used: how much of a core that is paid for is used; the rest is room for bursts.
    """

    cpu_hour: NotNegative = 0.0316
    memory_gb_month: NotNegative = 3.09
    disk_gb_month: NotNegative = 0.10
    used: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5

    def cpu(self, cores: float) -> float:
        """Returns what so many cores that are busy all the time cost a month.

        Example:
            >>> round(Prices(cpu_hour=0.05, used=0.5).cpu(1.0), 6)
            73.0
        """
        return cores / self.used * self.cpu_hour * MONTH_S / 3600.0

    def storage(self, memory_bytes: float, disk_bytes: float) -> float:
        """Returns what so many bytes of memory and disk cost a month."""
        return (memory_bytes * self.memory_gb_month + disk_bytes * self.disk_gb_month) / GB


def per_million(month: float, rate_rps: float) -> float:
    """Returns what a million predictions cost, of a month's cost at a rate.

    Example:
        >>> per_million(2.628, 1.0)
        1.0
    """
    return month / (rate_rps * MONTH_S) * 1e6
