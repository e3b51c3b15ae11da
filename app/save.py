"""Write a picture with its infotext so that a crash or a full disk leaves nothing half-written."""

import os
import tempfile
from pathlib import Path

import PIL.Image

from ppdiffusers.pipelines.infotext import embed_options

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def save_picture(image: PIL.Image.Image, path: Path, infotext: str) -> None:
    """Write beside the target, then rename. Raises OSError (disk full, no permission) with nothing left behind."""
    kind = FORMATS[path.suffix.lower()]
    options = embed_options(infotext, kind) | ({"quality": 95} if kind != "PNG" else {})
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            image.save(file, kind, **options)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as why:
        raise OSError(f"{path} could not be written: {why.strerror or why}; nothing was left behind") from why
    finally:
        Path(name).unlink(missing_ok=True)
