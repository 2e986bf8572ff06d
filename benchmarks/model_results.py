"""What the results of models.py say: ratios to the best peer, shares of the roofline."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def precision(name: str) -> str:
    return name.rsplit(maxsplit=1)[-1]


def ratio(rows: dict[str, Row], kind: str) -> tuple[float, str] | None:
    """The best peer's median over Octavo's of that precision, and the peer."""
    ours = rows.get(f"Octavo {kind}", {}).get("median_ms")
    peers_ms = {
        name: row["median_ms"]
        for name, row in rows.items()
        if precision(name) == kind and "median_ms" in row and not name.startswith("Octavo")
    }
    if not ours or not peers_ms:
        return None
    best = min(peers_ms, key=lambda name: peers_ms[name])
    return peers_ms[best] / ours, best


def roofline_ms(result: Row, name: str) -> float:
    """The least that the machine needs."""
    rate = result["limits"]["tops"] * (1 if precision(name) == "INT8" else 0.25)
    products = 2 * result["macs"] / rate / 1e9
    weights = result["rows"][name]["bytes"] / result["limits"]["gbs"] / 1e6
    return float(max(products, weights))
