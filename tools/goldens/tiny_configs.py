"""Print the configs of our tiny models as JSON, in diffusers' terms, for scripts that run without Paddle."""

import json
import sys

from ppdiffusers.models import config

FAMILIES = {"sd15": config.TINY_SD15, "sd21": config.TINY_SD21, "sdxl-base": config.TINY_SDXL}

if __name__ == "__main__":
    parts = {name: {"unet": p.unet.to_dict(), "vae": p.vae.to_dict()} for name, p in FAMILIES.items()}
    sys.stdout.write(json.dumps(parts))
