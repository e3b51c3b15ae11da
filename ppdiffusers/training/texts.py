"""Captions for training: as plain words (brackets mean nothing), in batches, with a gradient where one is asked for.

B captions, L tokens (77 a chunk), D text width, P pooled width.
"""

from collections.abc import Sequence

import paddle
from paddle import Tensor

from ppdiffusers.prompt.encode import Conditioning, PromptSettings, TextEncoder, TextEncoders

PLAIN = PromptSettings(emphasis="None")
MOST_CHUNKS = 3  # 225 tokens; what a caption says after that is left out


class Captions:
    """Turns captions into what the UNet attends to."""

    def __init__(self, encoders: TextEncoders, clip_skip: int = 1) -> None:
        if clip_skip < 1:
            raise ValueError(f"clip skip {clip_skip} is not possible; 1 is the last layer, 2 the one before")
        self.encoders, self.clip_skip = encoders, clip_skip

    def chunks(self, caption: str) -> int:
        """How many chunks of 75 tokens a caption has."""
        return min(len(self.encoders.chunks(caption, PLAIN)), MOST_CHUNKS)

    def __call__(self, captions: Sequence[str], chunks: int = 1) -> Conditioning:
        """Encode; shorter captions get empty chunks so that all have as many as the longest, at least `chunks`."""
        split = [self.encoders.chunks(caption, PLAIN)[:MOST_CHUNKS] for caption in captions]
        most = max(chunks, *(len(parts) for parts in split))
        empty: tuple[tuple[()], ...] = ((),) * len(self.encoders.encoders)
        read = []
        for i, encoder in enumerate(self.encoders.encoders):
            slots = [part[i] for parts in split for part in (*parts, *[empty] * (most - len(parts)))]
            rows = [encoder.tokenizer.row([slot.token for slot in chunk]) for chunk in slots]
            read.append(self._read(encoder, paddle.to_tensor(rows, dtype="int64"), most))
        pooled = next((pooled for _, pooled in read if pooled is not None), None)
        texts = [text for text, _ in read]
        return Conditioning(texts[0] if len(texts) == 1 else paddle.concat(texts, axis=-1), pooled)

    def _read(self, encoder: TextEncoder, ids: Tensor, chunks: int) -> tuple[Tensor, Tensor | None]:
        """(B * chunks, 77) ids -> (B, chunks * 77, D) float32, and the pooled text of each first chunk (B, P)."""
        depth = max(self.clip_skip, encoder.layer)
        out = encoder.model(ids, output_hidden_states=True)
        hidden = out.hidden_states[-depth]
        if encoder.final_norm:
            hidden = encoder.model.final_layer_norm(hidden)
        hidden = hidden.astype("float32").reshape([-1, chunks * ids.shape[1], hidden.shape[-1]])
        return hidden, out.text_embeds.astype("float32")[::chunks] if encoder.pooled else None
