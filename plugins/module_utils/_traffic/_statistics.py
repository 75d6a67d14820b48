# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
"""What a count of answers proves: intervals for a share, and for the difference of two shares. Pure functions."""

from __future__ import annotations

import math
import statistics


def z_of(confidence: float) -> float:
    """Standard deviations of a two-sided interval. ``confidence`` in percent, over 0 and below 100."""
    return statistics.NormalDist().inv_cdf(0.5 + confidence / 200)


def wilson(part: float, whole: float, z: float) -> tuple[float, float]:
    """Wilson's score interval of a share, in percent; right also near 0 and 100. Nothing is known of an empty sample."""
    if whole <= 0:
        return 0.0, 100.0
    p = min(1.0, max(0.0, part / whole))
    middle = (p + z * z / (2 * whole)) / (1 + z * z / whole)
    half = z / (1 + z * z / whole) * math.sqrt(p * (1 - p) / whole + z * z / (4 * whole * whole))
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def difference(first: tuple[float, float], second: tuple[float, float], z: float) -> tuple[float, float]:
    """Interval of ``first - second`` in points, each given as (part, whole). Newcombe 1998, method 10."""
    low_1, high_1 = wilson(*first, z)
    low_2, high_2 = wilson(*second, z)
    p_1 = 100 * first[0] / first[1] if first[1] > 0 else 50.0
    p_2 = 100 * second[0] / second[1] if second[1] > 0 else 50.0
    apart = p_1 - p_2
    return apart - math.hypot(p_1 - low_1, high_2 - p_2), apart + math.hypot(high_1 - p_1, p_2 - low_2)
