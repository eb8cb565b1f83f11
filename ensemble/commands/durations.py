"""Times for a person: `0:42`, `12:03`, `3:04:05`, `2 days 3 h`."""

from __future__ import annotations

__all__ = ["shown_duration"]


def shown_duration(seconds: float) -> str:
    """Seconds as a clock would say them; a day or more in days and hours."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    if hours >= 24:
        days = hours // 24
        return f"{days} day{'s' if days > 1 else ''} {hours % 24} h"
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
