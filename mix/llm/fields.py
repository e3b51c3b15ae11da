"""Reading a config.json with nothing overlooked: every key is used, known to be without effect, or refused."""

from collections.abc import Mapping
from typing import Any

_MISSING: Any = object()

# Book-keeping, training settings, and defaults for generation that `generation_config.json` repeats.
WITHOUT_EFFECT = frozenset(
    word
    for line in (
        "architectures model_type torch_dtype dtype transformers_version auto_map use_cache initializer_range",
        "init_std bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id decoder_start_token_id",
        "forced_eos_token_id attention_dropout hidden_dropout dropout activation_dropout attn_pdrop",
        "embd_pdrop resid_pdrop layerdrop attention_probs_dropout_prob hidden_dropout_prob classifier_dropout",
        "rope_type_validated pretraining_tp attn_implementation task_specific_params id2label label2id",
        "num_labels finetuning_task problem_type return_dict output_hidden_states output_attentions",
        "torchscript chunk_size_feed_forward pruned_heads tokenizer_class prefix name_or_path",
        "gradient_checkpointing max_length max_new_tokens do_sample temperature top_p top_k",
        "repetition_penalty bias_dropout_fusion skip_bias_add skip_bias_add_qkv slow_but_exact",
        "masked_softmax_fusion offset_alibi attention_softmax_in_fp32 apply_query_key_layer_scaling",
        "fp32_residual_connection transformers.js_config is_llama_config summary_type summary_use_proj",
        "summary_activation summary_proj_to_labels summary_first_dropout n_ctx reorder_and_upcast_attn",
        "is_decoder cls_token_id keys_to_ignore_at_inference use_bfloat16 tf_legacy_loss",
        "remove_invalid_values scale_by_inverse_layer_idx hidden_dropout_rate attn_pdrop_rate training_config",
        "weight_share_add_bias compression_ratio use_flash_attention bad_words_ids",
    )
    for word in line.split()
)
FIXED: Mapping[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "quantization_bit": (None, 0),
    "pre_seq_len": (None,),
    "prefix_projection": (None, False),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
    "cross_attention_hidden_size": (None,),
    "use_mrope": (None, False),
    "use_moe": (None, False),
    "final_logit_softcapping": (None,),
    "attn_logit_softcapping": (None,),
}


class Fields:
    """The keys of one config.json; `done()` refuses those that nobody asked for and that may matter."""

    def __init__(self, config: Mapping[str, Any], family: str) -> None:
        self.config, self.family = config, family
        self.used: set[str] = set()

    def get(self, *names: str, default: Any = _MISSING) -> Any:
        """The value under the first of `names` that is there and not null; ValueError when there is none."""
        self.used.update(names)
        for name in names:
            if self.config.get(name) is not None:
                return self.config[name]
        if default is _MISSING:
            raise ValueError(
                f"a {self.family} config lacks {' or '.join(names)}; the file is not a complete config.json"
            )
        return default

    def number(self, *names: str, default: Any = _MISSING) -> Any:
        """As `get`, and it must be a number."""
        value = self.get(*names, default=default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"a {self.family} config has {names[0]}={value!r}; it must be a number")
        return value

    def only(self, name: str, *accepted: Any) -> Any:
        """The value of `name`, which must be one of `accepted`; the first one when it is absent."""
        self.used.add(name)
        value = self.config.get(name, accepted[0])
        if value not in accepted:
            raise ValueError(
                f"{self.family} with {name}={value!r} is not supported; it must be {' or '.join(map(repr, accepted))}"
            )
        return value

    def done(self) -> None:
        """Refuse the first key that has an effect we do not know."""
        for key, value in self.config.items():
            if key in FIXED:
                self.only(key, *FIXED[key])
            harmless = key in WITHOUT_EFFECT or key.startswith(("_", "unsloth")) or key.endswith("_version")
            if key not in self.used and not harmless and value is not None:
                raise ValueError(
                    f"a {self.family} config has an unknown {key}={value!r}; remove it if it has no effect"
                )
