"""Our run of the same picture: prompt, guided steps, decoding."""

import json
import sys
import time

from measure import peak_mb

from app.environment import import_paddle

folder, dtype, steps, size, threads = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
paddle = import_paddle()

from ppdiffusers.pipelines.load import load_bundle  # noqa: E402
from ppdiffusers.pipelines.request import Request, Sampling  # noqa: E402
from ppdiffusers.pipelines.run import run  # noqa: E402

paddle.base.core.set_num_threads(threads)
bundle = load_bundle(folder, "bfloat16" if dtype == "bf16" else "float32")


def picture(count: int) -> float:
    """Seconds for one picture: prompt and negative prompt, `count` guided steps, decoding."""
    sampling = Sampling(sampler="DPM++ 2M Karras", steps=count, cfg_scale=7.5)
    request = Request(
        prompts=("a fox in the snow",), negative_prompts=("blurry",), width=size, height=size, sampling=sampling
    )
    begin = time.perf_counter()
    list(run(bundle, request))
    return time.perf_counter() - begin


def decoding() -> float:
    """Seconds for decoding alone."""
    z = paddle.zeros([1, 4, size // 8, size // 8])
    begin = time.perf_counter()
    with paddle.no_grad():
        bundle.vae.decode(z)
    return time.perf_counter() - begin


picture(1)
seconds, decode = picture(steps), decoding()
told = {"seconds": seconds, "step": (seconds - decode) / steps, "decode": decode, "peak_mb": peak_mb()}
sys.stdout.write(json.dumps(told) + "\n")
