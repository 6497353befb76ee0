"""Figures as people read them: as many digits as say something, and no powers of ten."""

from __future__ import annotations


def number(value: float) -> str:
    """Writes a number with three digits.

    Example:
        >>> number(0.0971), number(16.66), number(999.6), number(5484.2), number(1.5e-5)
        ('0.0971', '16.7', '1,000', '5,480', '1.5e-05')
    """
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000.0 else f"{rounded:.3g}"


def percent(share: float) -> str:
    """Writes a share as a percentage, with as many digits as say something.

    Example:
        >>> percent(0.5), percent(0.0012), percent(0.99951), percent(1.2)
        ('50%', '0.12%', '99.95%', '120%')
    """
    value = 100.0 * share
    if value >= 100.0 or value == 0.0:
        return f"{value:.0f}%"
    if value > 99.0:
        return f"{value:.2f}%"
    return f"{value:.2g}%" if value < 10.0 else f"{value:.0f}%"
