"""The networks that capture is measured by: each as a module in eval and the arguments of a call.

Weights are EfficientNet-Lite0's and all-MiniLM-L6-v2's own, from the packages that hold them; the
others are small configurations with seeded random weights. `transformers` is taken as it is, and
so is what its classes return.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from networks.export import seeded


@dataclass(frozen=True)
class Network:
    make: Callable[[], nn.Module]  # in eval, seeded
    inputs: Callable[[int], dict[str, Any]]  # of a batch size: keyword arguments


def _tokens(batch: int, length: int = 16, vocabulary: int = 100) -> torch.Tensor:
    return torch.randint(3, vocabulary, (batch, length), generator=seeded())


def _text(batch: int) -> dict[str, Any]:
    ids = _tokens(batch)
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _decoder_text(batch: int) -> dict[str, Any]:
    return {"input_ids": _tokens(batch), "attention_mask": torch.ones(batch, 16, dtype=torch.long)}


def _pictures(size: int) -> Callable[[int], dict[str, Any]]:
    return lambda batch: {"pixel_values": torch.randn(batch, 3, size, size, generator=seeded())}


def _transformers(model: str, config: str, **sizes: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        torch.manual_seed(0)
        made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**sizes))
        return made.eval()

    return make


def _lite0() -> nn.Module:
    from networks.efficientnet import Lite0

    return Lite0().net.eval()  # type: ignore[no-any-return]


def _minilm() -> nn.Module:
    import transformers

    from networks.transformer import minilm_folder

    made: nn.Module = transformers.AutoModel.from_pretrained(minilm_folder())
    return made.eval()


def _encoder() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


def _lstm() -> nn.Module:
    torch.manual_seed(0)
    return nn.LSTM(16, 32, num_layers=2, bidirectional=True, batch_first=True).eval()


def _sequences(name: str, width: int) -> Callable[[int], dict[str, Any]]:
    return lambda batch: {name: torch.randn(batch, 10, width, generator=seeded())}


_ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
_DECODER = _ENCODER | {
    "vocab_size": 100,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def _clip_inputs(batch: int) -> dict[str, Any]:
    return _text(batch) | _pictures(32)(batch)


def _t5_inputs(batch: int) -> dict[str, Any]:
    return _text(batch) | {"decoder_input_ids": _tokens(batch, 8)}


def _whisper_inputs(batch: int) -> dict[str, Any]:
    return {
        "input_features": torch.randn(batch, 20, 64, generator=seeded()),
        "decoder_input_ids": _tokens(batch, 8),
    }


NETWORKS: dict[str, Network] = {
    "EfficientNet-Lite0": Network(
        _lite0, lambda batch: {"inputs": torch.randn(batch, 3, 224, 224, generator=seeded())}
    ),
    "all-MiniLM-L6-v2": Network(_minilm, _text),
    "TransformerEncoder": Network(_encoder, _sequences("src", 32)),
    "LSTM": Network(_lstm, _sequences("input", 16)),
    "BERT": Network(
        _transformers("BertForSequenceClassification", "BertConfig", vocab_size=100, **_ENCODER),
        _text,
    ),
    "DistilBERT": Network(
        _transformers(
            "DistilBertModel",
            "DistilBertConfig",
            vocab_size=100,
            dim=32,
            hidden_dim=64,
            n_heads=4,
            n_layers=2,
        ),
        _text,
    ),
    "ViT": Network(
        _transformers(
            "ViTForImageClassification", "ViTConfig", image_size=32, patch_size=8, **_ENCODER
        ),
        _pictures(32),
    ),
    "CLIP": Network(
        _transformers(
            "CLIPModel",
            "CLIPConfig",
            text_config=_ENCODER
            | {"vocab_size": 100, "max_position_embeddings": 32, "eos_token_id": 2},
            vision_config=_ENCODER | {"image_size": 32, "patch_size": 8},
            projection_dim=16,
        ),
        _clip_inputs,
    ),
    "GPT-2": Network(
        _transformers(
            "GPT2LMHeadModel",
            "GPT2Config",
            vocab_size=100,
            n_embd=32,
            n_head=4,
            n_layer=2,
            n_positions=64,
        ),
        _decoder_text,
    ),
    "LLaMA": Network(_transformers("LlamaForCausalLM", "LlamaConfig", **_DECODER), _decoder_text),
    "Qwen2": Network(_transformers("Qwen2ForCausalLM", "Qwen2Config", **_DECODER), _decoder_text),
    "T5": Network(
        _transformers(
            "T5ForConditionalGeneration",
            "T5Config",
            vocab_size=100,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
        ),
        _t5_inputs,
    ),
    "Whisper": Network(
        _transformers(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            vocab_size=100,
            num_mel_bins=20,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_source_positions=32,
            max_target_positions=32,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        ),
        _whisper_inputs,
    ),
    "Mamba": Network(
        _transformers(
            "MambaForCausalLM",
            "MambaConfig",
            vocab_size=100,
            hidden_size=32,
            state_size=8,
            num_hidden_layers=2,
        ),
        lambda batch: {"input_ids": _tokens(batch)},
    ),
}
