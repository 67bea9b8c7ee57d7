"""A small causal CLIP text transformer, key names as in Hugging Face's ``CLIPTextModel`` (which ComfyUI reads too)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

CLIP_VOCABULARY = 49408
START, END = 49406, 49407


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Sizes of the transformer; names as in a CLIP ``config.json``."""

    hidden_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 512
    hidden_act: str = "quick_gelu"
    max_position_embeddings: int = 77
    eos_token_id: int = END
    layer_norm_eps: float = 1e-5
    vocab_size: int = CLIP_VOCABULARY
    model_type: str = "clip_text_model"


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (p(x).view(batch, length, self.heads, -1).transpose(1, 2) for p in projections)
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(out.transpose(1, 2).reshape(batch, length, width))


class _Layer(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps=1e-5), nn.LayerNorm(width, eps=1e-5)
        self.self_attn = _Attention(width, config.num_attention_heads)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, config.intermediate_size), "fc2": nn.Linear(config.intermediate_size, width)}
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        hidden = self.mlp["fc1"](self.layer_norm2(x))
        return x + self.mlp["fc2"](hidden * torch.sigmoid(1.702 * hidden))


class _Embeddings(nn.Module):
    def __init__(self, tokens: int, config: TextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(tokens, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding.weight, std=0.01)


class _TextModel(nn.Module):
    def __init__(self, tokens: int, config: TextConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(tokens, config)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))})
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=1e-5)


class _Transformer(nn.Module):
    def __init__(self, tokens: int, config: TextConfig) -> None:
        super().__init__()
        self.text_model = _TextModel(tokens, config)


class TextEncoder(nn.Module):
    """Text transformer over a part of CLIP's vocabulary; every other token shares one "unknown" row.

    Args:
        vocabulary: CLIP ids of the tokens that have their own row, sorted.
        config: sizes.
    """

    vocabulary: Tensor

    def __init__(self, vocabulary: Tensor, config: TextConfig | None = None) -> None:
        super().__init__()
        self.config = config or TextConfig()
        self.register_buffer("vocabulary", vocabulary.to(torch.int32))
        self.transformer = _Transformer(len(vocabulary) + 1, self.config)

    def rows(self, ids: Tensor) -> Tensor:
        """Row of the token table for each CLIP id: 0 for unknown tokens, 1 + i for ``vocabulary[i]``."""
        at = torch.searchsorted(self.vocabulary, ids.to(torch.int32)).clamp(max=len(self.vocabulary) - 1)
        return torch.where(self.vocabulary[at] == ids, at + 1, 0)

    def forward(self, ids: Tensor) -> Tensor:
        """CLIP token ids to hidden states.

        Args:
            ids: long ``[B, 77]``, padded with the end token.

        Returns:
            ``[B, 77, hidden_size]``, the last layer after the final norm.
        """
        model = self.transformer.text_model
        position = model.embeddings.position_embedding.weight[: ids.shape[1]]
        x = model.embeddings.token_embedding(self.rows(ids)) + position
        for layer in model.encoder["layers"]:  # type: ignore[attr-defined]
            x = layer(x)
        return model.final_layer_norm(x)
