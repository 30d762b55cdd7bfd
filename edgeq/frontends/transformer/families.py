"""The families that edgeq reads: a row each, and one reader for their config.json.

To add one, add a row, and a case to tests/frontends/transformer.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from edgeq.errors import ModelError
from edgeq.frontends.transformer.spec import Learned, Positions, Relative, Sinusoidal, Stack

Config: TypeAlias = Mapping[str, Any]
Names: TypeAlias = Mapping[str, str]
Side: TypeAlias = Literal["encoder", "decoder"]

# Role -> name of a tensor of layer {}, without ".weight" or ".bias"; "a|b": whichever the file has.
_BERT: Final = {
    "embedding": "embeddings.word_embeddings", "positions": "embeddings.position_embeddings",
    "kinds": "embeddings.token_type_embeddings", "embedding_norm": "embeddings.LayerNorm",
    "q": "encoder.layer.{}.attention.self.query", "k": "encoder.layer.{}.attention.self.key",
    "v": "encoder.layer.{}.attention.self.value", "o": "encoder.layer.{}.attention.output.dense",
    "attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "up": "encoder.layer.{}.intermediate.dense", "down": "encoder.layer.{}.output.dense",
    "mlp_norm": "encoder.layer.{}.output.LayerNorm",
}
_MPNET: Final = {
    **_BERT, **{role: f"encoder.layer.{{}}.attention.attn.{role}" for role in "qkvo"},
    "attention_norm": "encoder.layer.{}.attention.LayerNorm", "relative": "encoder.relative_attention_bias",
}
_DISTILBERT: Final = {
    "embedding": "embeddings.word_embeddings", "positions": "embeddings.position_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    **{role: f"transformer.layer.{{}}.attention.{role}_lin" for role in "qkv"},
    "o": "transformer.layer.{}.attention.out_lin", "attention_norm": "transformer.layer.{}.sa_layer_norm",
    "up": "transformer.layer.{}.ffn.lin1", "down": "transformer.layer.{}.ffn.lin2",
    "mlp_norm": "transformer.layer.{}.output_layer_norm",
}


def _bart(side: Side) -> dict[str, str]:
    """The names of Bart, which Whisper and Marian have kept."""
    here = f"{side}.layers.{{}}."
    attention = {f"{before}{role}": f"{here}{name}.{end}" for before, name in (
        ("", "self_attn"), *((("cross_", "encoder_attn"),) if side == "decoder" else ())) for role, end in (
        *((role, f"{role}_proj") for role in "qkv"), ("o", "out_proj"))}
    return attention | {
        "embedding": f"{side}.embed_tokens|shared", "positions": f"{side}.embed_positions",
        "attention_norm": f"{here}self_attn_layer_norm", "cross_norm": f"{here}encoder_attn_layer_norm",
        "up": f"{here}fc1", "down": f"{here}fc2", "mlp_norm": f"{here}final_layer_norm",
        "final_norm": f"{side}.layer_norm", "head": "proj_out|lm_head|decoder.embed_tokens|shared",
        "conv1": "encoder.conv1", "conv2": "encoder.conv2", "head_bias": "final_logits_bias"}


def _t5(side: Side) -> dict[str, str]:
    here, mlp = f"{side}.block.{{}}.layer.", 2 if side == "decoder" else 1
    return {
        "embedding": f"shared|{side}.embed_tokens", **{role: f"{here}0.SelfAttention.{role}" for role in "qkvo"},
        "attention_norm": f"{here}0.layer_norm",
        "relative": f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias",
        **{f"cross_{role}": f"{here}1.EncDecAttention.{role}" for role in "qkvo"}, "cross_norm": f"{here}1.layer_norm",
        "gate": f"{here}{mlp}.DenseReluDense.wi_0",
        "up": f"{here}{mlp}.DenseReluDense.wi|{here}{mlp}.DenseReluDense.wi_1",
        "down": f"{here}{mlp}.DenseReluDense.wo", "mlp_norm": f"{here}{mlp}.layer_norm",
        "final_norm": f"{side}.final_layer_norm", "head": "lm_head|shared|decoder.embed_tokens"}


_ALL: Final = frozenset({"q", "k", "v", "o", "up", "down"})
_CROSS: Final = frozenset({"cross_q", "cross_k", "cross_v", "cross_o"})
_WITHOUT_KEYS: Final = (_ALL | _CROSS) - {"k", "cross_k"}
# https://github.com/huggingface/transformers/blob/main/src/transformers/activations.py (ACT2FN)
_ACTIVATIONS: Final[Mapping[str, Literal["gelu", "gelu_tanh", "relu", "silu"]]] = MappingProxyType({
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu", "silu": "silu",
    "swish": "silu"})


@dataclass(frozen=True, slots=True)
class Family:
    """type: `model_type` of config.json. prefixes: in front of names, where a head is around the bare model. decoder:
    names of one, where there is one. defaults: what its configuration class leaves out of the file. The rest as in
    `Stack`.
    """

    type: str
    encoder: Names
    decoder: Names | None = None
    prefixes: tuple[str, ...] = ("",)
    positions: Literal["learned", "padded", "sinusoidal", "none"] = "learned"
    rms: bool = False
    pre_norm: bool = False
    embedding_norm: bool = False
    biases: frozenset[str] = _ALL
    scaled: bool = True
    defaults: Config = field(default_factory=dict)

    @property
    def hears(self) -> bool:
        """Whether the encoder reads sound."""
        return self.type == "whisper"


def _bert(kind: str, prefix: str, names: Names = _BERT, *, padded: bool = False, **defaults: Any) -> Family:
    return Family(kind, names, None, ("", prefix), "padded" if padded else "learned", embedding_norm=True,
                  defaults={"layer_norm_eps": 1e-12, "hidden_act": "gelu", "pad_token_id": 1, **defaults})


FAMILIES: Final[Mapping[str, Family]] = MappingProxyType({row.type: row for row in (
    _bert("bert", "bert."),
    _bert("roberta", "roberta.", padded=True),
    _bert("xlm-roberta", "roberta.", padded=True),
    _bert("camembert", "roberta.", padded=True),
    _bert("mpnet", "mpnet.", _MPNET, padded=True, relative_attention_num_buckets=32),
    _bert("distilbert", "distilbert.", _DISTILBERT),
    Family("whisper", _bart("encoder"), _bart("decoder"), ("model.", ""), pre_norm=True, biases=_WITHOUT_KEYS,
           defaults={"layer_norm_eps": 1e-5, "activation_function": "gelu", "num_mel_bins": 80}),
    Family("marian", _bart("encoder"), _bart("decoder"), ("model.", ""), "sinusoidal", biases=_ALL | _CROSS,
           defaults={"layer_norm_eps": 1e-5, "activation_function": "gelu"}),
    Family("t5", _t5("encoder"), _t5("decoder"), positions="none", rms=True, pre_norm=True, biases=frozenset(),
           scaled=False, defaults={"n_positions": 512, "relative_attention_num_buckets": 32,
                                   "relative_attention_max_distance": 128, "feed_forward_proj": "relu",
                                   "layer_norm_epsilon": 1e-6}),
)})
# What families call the same number; "side" is encoder or decoder. The first that is there counts.
_WORDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({
    "hidden": ("hidden_size", "d_model", "dim"),
    "heads": ("{side}_attention_heads", "num_attention_heads", "num_heads", "n_heads"),
    "layers": ("{side}_layers", "num_{side}_layers", "num_hidden_layers", "num_layers", "n_layers"),
    "inner": ("{side}_ffn_dim", "intermediate_size", "d_ff", "hidden_dim"),
    "context": ("{source}_positions", "max_position_embeddings", "n_positions"),
    "vocabulary": ("vocab_size",),
    "epsilon": ("layer_norm_eps", "layer_norm_epsilon"),
    "activation": ("activation_function", "hidden_act", "activation"),
})
# A head behind an encoder that would be lost; a language model's is what the encoder was trained with.
_LOST: Final = ("Classification", "QuestionAnswering", "MultipleChoice", "NextSentence")


def family_of(config: Config) -> Family | None:
    """The row of a config.json; None where it is of another kind of network."""
    return FAMILIES.get(str(config.get("model_type", "")))


def stack_of(row: Family, config: Config, side: Side) -> Stack:
    """What a config.json says of one side.

    Raises:
        ModelError: a number is missing, widths do not fit, an activation or kind of position that nobody knows, or a
            head that would be lost.
    """
    lost = next((name for name in config.get("architectures") or () if any(word in name for word in _LOST)), None)
    if lost is not None:
        raise ModelError(f"config.json: {lost} has a head that edgeq does not write: export the whole "
                         "network to ONNX and convert that, or save the bare encoder "
                         "(model.base_model.save_pretrained(FOLDER))")
    known = {**row.defaults, **config}
    found = {name: _word(known, words, side) for name, words in _WORDS.items()}
    hidden, heads = found["hidden"], found["heads"]
    missing = [_WORDS[name][0].format(side=side, source="max") for name, value in found.items()
               if value is None and name != "activation"]
    if missing:
        raise ModelError(f"config.json lacks {', '.join(missing)}")
    if "d_kv" not in known and hidden % heads:
        raise ModelError(f"config.json: {heads} attention heads do not divide a width of {hidden}")
    if str(known.get("position_embedding_type") or "absolute") != "absolute":
        raise ModelError(f"config.json: position_embedding_type '{known['position_embedding_type']}' is not among what "
                         "edgeq writes, which is 'absolute'")
    gated, activation = _activation(known, found["activation"])
    head_size = int(known.get("d_kv") or hidden // heads)
    positions, context = _positions(row, known, int(found["context"]))
    speaks = row.decoder is not None and side == "decoder"
    return Stack(
        int(found["vocabulary"]), context, int(hidden), int(found["inner"]), int(heads), head_size,
        int(found["layers"]), float(found["epsilon"]), activation, positions,
        None if "relative" not in row.encoder else Relative(
            int(known["relative_attention_num_buckets"]), int(known.get("relative_attention_max_distance") or 128)),
        row.rms, row.pre_norm, gated, row.biases, head_size ** -0.5 if row.scaled else 1.0,
        hidden ** 0.5 if known.get("scale_embedding") else 1.0, row.embedding_norm,
        int(known.get("type_vocab_size") or 0) if "kinds" in row.encoder and row.type != "mpnet" else 0,
        int(known["num_mel_bins"]) if row.hears and side == "encoder" else 0,
        hidden ** -0.5 if row.type == "t5" and speaks and known.get(
            "scale_decoder_outputs", known.get("tie_word_embeddings", True)) else 1.0,
        row.type == "marian")


def _word(known: Config, words: tuple[str, ...], side: Side) -> Any:
    source = "max_source" if side == "encoder" else "max_target"
    return next((known[name] for word in words
                 if known.get(name := word.format(side=side, source=source)) is not None), None)


def _activation(known: Config, named: Any) -> tuple[bool, Literal["gelu", "gelu_tanh", "relu", "silu"]]:
    """Whether MLPs are gated, and their function."""
    projection = str(known.get("feed_forward_proj", ""))
    gated = projection.startswith("gated-")
    name = projection.removeprefix("gated-") or str(named)
    name = "gelu_new" if gated and name == "gelu" else name  # as transformers' T5Config has it
    if name not in _ACTIVATIONS:
        raise ModelError(f"config.json: no activation '{name}'; there are {', '.join(_ACTIVATIONS)}")
    return gated, _ACTIVATIONS[name]


def _positions(row: Family, known: Config, rows: int) -> tuple[Positions, int]:
    """-> them, and how many tokens there may be."""
    if row.positions == "padded":
        skipped = int(known["pad_token_id"]) + 1
        return Learned(rows, skipped), rows - skipped
    kinds: Mapping[str, Positions] = {"learned": Learned(rows), "sinusoidal": Sinusoidal(rows), "none": None}
    return kinds[row.positions], rows
