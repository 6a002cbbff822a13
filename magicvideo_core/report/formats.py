"""Durations, sizes and counts in the words of people, for the report."""


def format_seconds(value: float) -> str:
    """Return a duration for people: `0.42 s`, `12.3 s`, `4 min 05 s`, `2 h 07 min`."""
    if value < 10:
        return f"{value:.2f} s"
    if value < 120:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_bytes(value: int) -> str:
    """Return a size for people, in powers of 1000."""
    size = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_count(value: int) -> str:
    """Return a number with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u2009")


def format_minute(iso: str) -> str:
    """Return an ISO 8601 time in UTC to the minute, `2026-11-23 09:30 UTC`; another text as it is."""
    return f"{iso[:10]} {iso[11:16]} UTC" if iso[10:11] == "T" and iso.endswith(("+00:00", "Z")) else iso
