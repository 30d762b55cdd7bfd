"""Every net of the table, in its order."""
from __future__ import annotations

import re
from typing import Any, Final

from nets import convnets, dense, sequence
from nets.base import Net, image, mask, normal, spectrogram, tokens, waveform
from nets.huggingface import (
    CLIP,
    LLAMA,
    PATCHES,
    TEXT,
    WHISPER,
    CachedLlama,
    WhisperDecoder,
    built,
    detr,
    part,
)

CLASSES: Final = {"num_labels": 100}
VIT: Final = {"family": "vision transformer"}
LOGITS: Final = ("logits",)
STATES: Final = ("last_hidden_state",)
STAGES: Final = {"embedding_size": 16, "hidden_sizes": [24, 32, 48, 64], "depths": [1, 1, 2, 1]}


def _config(model: str) -> str:
    """LlamaForCausalLM -> LlamaConfig: the name without what the model is for."""
    return re.sub(r"(Vision|Text)?(Encoder|LMHead)?(For|Model)(?=[A-Z]|$).*", r"\1Config", model)


def _plain(name: str, family: str, make: Any, **inputs: Any) -> Net:
    if inputs:
        return Net(name, family, make, inputs)
    return Net(name, family, make, {"input" if make.__module__.endswith("convnets") else "x": image()})


def _vision(name: str, model: str, outputs: tuple[str, ...] = LOGITS, size: int = 64, family: str = "classifier",
            **sizes: Any) -> Net:
    return Net(name, family, built(model, _config(model), **sizes), {"pixel_values": image(3, size, size)}, outputs)


def _text(name: str, model: str, outputs: tuple[str, ...] = STATES, padded: bool = True, **sizes: Any) -> Net:
    inputs = {"input_ids": tokens(), "attention_mask": mask()} if padded else {"input_ids": tokens()}
    return Net(name, "language", built(model, _config(model), **{**TEXT, **sizes}), inputs, outputs)


NETS: Final = (
    # Classifiers
    _vision("mobilenet_v1", "MobileNetV1ForImageClassification", depth_multiplier=0.25, image_size=64, **CLASSES),
    _vision("mobilenet_v2", "MobileNetV2ForImageClassification", depth_multiplier=0.25, image_size=64, **CLASSES),
    _plain("mobilenet_v3", "classifier", convnets.mobilenet_v3),
    _plain("mobilenet_v4", "classifier", convnets.mobilenet_v4),
    _vision("efficientnet", "EfficientNetForImageClassification", image_size=64, width_coefficient=0.25,
            depth_coefficient=0.3, hidden_dim=320, **CLASSES),
    _vision("resnet", "ResNetForImageClassification", **STAGES, layer_type="bottleneck", **CLASSES),
    _vision("regnet", "RegNetForImageClassification", **STAGES, groups_width=8, layer_type="y", **CLASSES),
    _plain("shufflenet_v1", "classifier", convnets.shufflenet_v1),
    _plain("shufflenet_v2", "classifier", convnets.shufflenet_v2),
    _plain("ghostnet", "classifier", convnets.ghostnet),
    _vision("convnext", "ConvNextForImageClassification", hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1],
            layer_scale_init_value=0.5, **CLASSES),
    _vision("convnext_v2", "ConvNextV2ForImageClassification", hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1],
            **CLASSES),
    _plain("densenet", "classifier", convnets.densenet),
    _plain("squeezenet", "classifier", convnets.squeezenet),
    _plain("inception", "classifier", convnets.inception),
    _vision("bit_resnet", "BitForImageClassification", **STAGES, num_groups=8, **CLASSES),
    _vision("poolformer", "PoolFormerForImageClassification", hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1],
            **CLASSES),
    # Vision transformers
    _vision("vit", "ViTForImageClassification", **PATCHES, **CLASSES, **VIT),
    _vision("deit", "DeiTForImageClassificationWithTeacher", **PATCHES, **CLASSES, **VIT),
    _vision("swin", "SwinForImageClassification", image_size=64, patch_size=4, embed_dim=16, depths=[2, 2],
            num_heads=[2, 4], window_size=4, **CLASSES, **VIT),
    _vision("beit", "BeitForImageClassification", **PATCHES, **CLASSES, **VIT),
    _vision("dinov2", "Dinov2Model", STATES, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, mlp_ratio=2,
            image_size=56, patch_size=14, size=56, **VIT),
    _vision("mobilevit", "MobileViTForImageClassification", image_size=64, hidden_sizes=[24, 32, 40],
            neck_hidden_sizes=[8, 12, 16, 24, 32, 40, 96], num_attention_heads=4, **CLASSES, **VIT),
    _vision("clip_vision", "CLIPVisionModelWithProjection", ("image_embeds",), **{**PATCHES, **CLIP}, **VIT),
    _vision("siglip_vision", "SiglipVisionModel", ("pooler_output",), **PATCHES, **VIT),
    # A value for every pixel or box
    _vision("segformer", "SegformerForSemanticSegmentation", hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1],
            num_attention_heads=[1, 2, 4, 4], decoder_hidden_size=48, num_labels=8, family="segmentation"),
    _plain("deeplab_v3", "segmentation", dense.DeepLabV3, image=image()),
    _plain("unet", "segmentation", dense.UNet),
    _plain("heat_maps", "segmentation", dense.HeatMaps),
    _plain("yolo_v8", "detection", dense.Yolo),
    _plain("yolo_v5", "detection", dense.YoloV5),
    _plain("ssd", "detection", dense.Ssd),
    Net("detr", "detection", detr, {"pixel_values": image()}, ("logits", "pred_boxes")),
    _vision("yolos", "YolosForObjectDetection", ("logits", "pred_boxes"), **{**PATCHES, "image_size": [64, 64]},
            num_detection_tokens=10, use_mid_position_embeddings=False, num_labels=7, family="detection"),
    _plain("sub_pixel", "image to image", dense.SubPixel),
    _plain("style", "image to image", dense.StyleNet),
    # Language
    _text("bert", "BertModel", (*STATES, "pooler_output")),
    _text("distilbert", "DistilBertModel", dim=48, n_layers=2, n_heads=4, hidden_dim=96),
    _text("minilm", "BertModel", STATES, hidden_size=36, num_attention_heads=12, num_hidden_layers=3),
    _text("albert", "AlbertModel", embedding_size=24),
    _text("roberta", "RobertaForSequenceClassification", LOGITS, pad_token_id=0, num_labels=60),
    _text("t5_encoder", "T5EncoderModel", d_model=48, d_kv=12, d_ff=96, num_layers=2, num_heads=4,
          feed_forward_proj="gated-gelu"),
    _text("gpt2", "GPT2LMHeadModel", LOGITS, False, n_embd=48, n_layer=2, n_head=4, n_positions=40, use_cache=False),
    Net("llama", "language", LLAMA, {"input_ids": tokens()}, LOGITS),
    Net("llama_step", "language", CachedLlama,
        {"input_ids": tokens(length=1), "keys": normal(4, 15, 12), "values": normal(4, 15, 12)}),
    _text("qwen2", "Qwen2ForCausalLM", LOGITS, False, num_key_value_heads=2, use_cache=False),
    _text("opt", "OPTForCausalLM", LOGITS, False, ffn_dim=96, word_embed_proj_dim=48, use_cache=False),
    Net("clip_text", "language", built("CLIPTextModelWithProjection", "CLIPTextConfig", **{**TEXT, **CLIP},
                                       bos_token_id=198, eos_token_id=199),
        {"input_ids": tokens()}, ("text_embeds",)),
    # Sound and sequences
    Net("whisper_encoder", "sound", part(WHISPER, "model.encoder"), {"input_features": spectrogram(40, 100)}, STATES),
    Net("whisper_decoder", "sound", WhisperDecoder,
        {"input_ids": tokens(), "encoder_hidden_states": normal(50, 48)}),
    Net("wav2vec2", "sound", built("Wav2Vec2ForCTC", "Wav2Vec2Config", hidden_size=48, num_hidden_layers=2,
                                   num_attention_heads=4, intermediate_size=96, vocab_size=32, conv_dim=[24, 24, 24],
                                   conv_stride=[5, 4, 2], conv_kernel=[10, 8, 4], num_conv_pos_embeddings=16,
                                   num_conv_pos_embedding_groups=4, apply_spec_augment=False, mask_time_prob=0.0),
        {"input_values": waveform(1600)}, LOGITS),
    Net("audio_spectrogram", "sound", built("ASTForAudioClassification", "ASTConfig", hidden_size=48,
                                            num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
                                            max_length=64, num_mel_bins=32, num_labels=60),
        {"input_values": spectrogram(64, 32)}, LOGITS),
    _plain("conv_tasnet", "sound", sequence.ConvTasNet, sound=waveform(1024, channels=1)),
    _plain("wavenet", "sound", sequence.WaveNet, sound=waveform(256, channels=1)),
    _plain("keyword_spotter", "sound", sequence.KeywordSpotter, x=spectrogram(1, 49, 10)),
    _plain("crnn", "recurrent", sequence.Crnn, x=image(1, 32, 80)),
    _plain("gru_denoiser", "recurrent", sequence.GruDenoiser, frames=spectrogram(20, 40)),
    _plain("gru_streaming", "recurrent", sequence.StreamingGru, frame=spectrogram(4, 40),
           state=normal(2, 48, scale=0.5)),
    _plain("lstm_streaming", "recurrent", sequence.StreamingLstm, sound=waveform(256, channels=1),
           h=normal(1, 32, scale=0.5), c=normal(1, 32, scale=0.5)),
    _plain("rnn_tagger", "recurrent", sequence.RnnTagger, tokens=tokens()),
    _plain("lstm_language", "recurrent", sequence.LstmLanguage, tokens=tokens()),
    _plain("video_3d", "other", sequence.VideoNet, clip=normal(3, 8, 32, 32)),
    _plain("pointnet", "other", sequence.PointNet, points=normal(3, 64)),
)


def named(name: str) -> Net:
    """One net of the table; its maker is not called."""
    return next(net for net in NETS if net.name == name)
