"""Events as JSON objects, for other processes."""

import dataclasses
from pathlib import Path
from typing import Any


def told(event: Any) -> dict[str, Any]:
    """{"event": "trainstep", "step": ..., ...}: the kind in lower case, then the event's fields."""
    fields = {f.name: getattr(event, f.name) for f in dataclasses.fields(event)}
    return {"event": type(event).__name__.lower()} | {
        k: str(v) if isinstance(v, Path) else v for k, v in fields.items()
    }
