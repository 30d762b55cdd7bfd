"""Architectures of transformers: the smallest configurations that still have every kind of layer."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

TEXT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
        "vocab_size": 200, "max_position_embeddings": 40}
PATCHES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
           "image_size": 64, "patch_size": 16}


def built(model: str, config: str, **sizes: Any) -> Callable[[], nn.Module]:
    """A maker of `transformers.<model>` with `transformers.<config>(**sizes)`, weights at random."""
    def make() -> nn.Module:
        import transformers

        configuration = getattr(transformers, config)(**sizes)
        network: nn.Module = getattr(transformers, model)(configuration)
        return network
    return make


def part(model: Callable[[], nn.Module], name: str) -> Callable[[], nn.Module]:
    """A maker of one submodule, as the encoder of a translation model."""
    return lambda: model().get_submodule(name)


def detr() -> nn.Module:
    import transformers

    backbone = transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1],
                                         layer_type="basic", out_features=["stage4"])
    return transformers.DetrForObjectDetection(transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone, backbone=None,
        num_queries=10, d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=64, decoder_ffn_dim=64,
        encoder_attention_heads=4, decoder_attention_heads=4, num_labels=7))


class WhisperDecoder(nn.Module):
    """Tokens so far and the encoder's states -> scores of the next token at every place."""

    def __init__(self) -> None:
        super().__init__()
        whole = WHISPER()
        self.decoder, self.out = whole.model.decoder, whole.proj_out

    def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        states = self.decoder(input_ids=input_ids, encoder_hidden_states=encoder_hidden_states, use_cache=False)
        scores: Tensor = self.out(states.last_hidden_state)
        return scores


class CachedLlama(nn.Module):
    """One step of generation: a token, its place, and keys and values of 15 earlier ones -> scores, new key and value.

    keys, values: [1, layers * heads, 15, size of a head].
    """

    def __init__(self) -> None:
        super().__init__()
        self.inner = LLAMA()

    def forward(self, input_ids: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from transformers import DynamicCache

        heads = keys.shape[1] // 2
        cache = DynamicCache()
        for layer in range(2):
            part = slice(layer * heads, (layer + 1) * heads)
            cache.update(keys[:, part], values[:, part], layer)
        out = self.inner(input_ids=input_ids, past_key_values=cache, use_cache=True,
                         cache_position=torch.tensor([15]), position_ids=torch.tensor([[15]]))
        after = out.past_key_values.layers
        return (out.logits, torch.cat([layer.keys[:, :, -1:] for layer in after], 1),
                torch.cat([layer.values[:, :, -1:] for layer in after], 1))


WHISPER = built("WhisperForConditionalGeneration", "WhisperConfig", d_model=48, encoder_layers=2, decoder_layers=2,
                encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=96, decoder_ffn_dim=96,
                vocab_size=200, num_mel_bins=40, max_source_positions=50, max_target_positions=32, pad_token_id=0,
                bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, begin_suppress_tokens=None,
                suppress_tokens=None)
LLAMA = built("LlamaForCausalLM", "LlamaConfig", **TEXT, num_key_value_heads=2, use_cache=False, pad_token_id=0,
              bos_token_id=1, eos_token_id=2)
CLIP = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
        "projection_dim": 64}
