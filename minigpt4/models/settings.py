"""The section `model:` of a YAML: one field per key, and which defaults a model type has.

Imports neither torch nor transformers, so that a config is checked before anything heavy is loaded. Only the
assembly (`minigpt4.models.assembly`) reads these settings; the classes below it take plain arguments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.common.schema import key
from minigpt4.models.model_types import MINIGPT4_TYPES, MINIGPT_V2_TYPES, merge_defaults

QUANTIZED = ("8bit", "4bit")  # of llm_precision
SHARD = "shard"  # of device_map
ALL_LINEAR = "all-linear"  # of lora_target_modules
# In place of a file: random weights, which must be trained.
RANDOM = "random"

# An image token is what the first layer sees: it stands beside word embeddings as the model's own embedding
# call returns them, and nothing rescales it. Since transformers 5.4 that holds for Gemma too.
FIRST_LAYER_INPUT = "first_layer_input"
# An image token is in the scale of the embedding table's rows, and the model multiplies both by its factor
# (Gemma's sqrt(width)), as Gemma did in transformers before 5.4.
TABLE_ROW = "table_row"


@dataclass(frozen=True, kw_only=True)
class QFormerSettings:
    """Sizes of a Q-Former; BERT-base's where the YAML does not say."""

    hidden_size: int = key(768, "width of its tokens", low=1)
    num_hidden_layers: int = key(12, "layers", low=1)
    num_attention_heads: int = key(12, "attention heads", low=1)
    intermediate_size: int = key(3072, "width inside a feed-forward layer", low=1)
    cross_attention_frequency: int = key(2, "every n-th layer looks at the picture", low=1)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The keys of `model:`.

    For all weights, `null` means what leaving the key out means: the published file of `vit_weights` and
    `q_former_model`, no `ckpt`; `llama_model` must be set. `random` stands for random weights.
    """

    TYPES: ClassVar[Mapping[str, str]] = MINIGPT4_TYPES

    arch: str = key("minigpt4", "which model: `minigpt4`, `minigpt_v2`, or `module:Class` of your own")
    model_type: str | None = key(
        None,
        "which defaults: `pretrain_llama2`, `tiny_gemma`, …, or a folder of `minigpt4 export`; null: "
        "`pretrain_vicuna0`",
    )

    vit_model: str = key(
        "eva_clip_g", "the encoder: `eva_clip_g`, a model of timm, a registered name, or `module:Class`"
    )
    vit_weights: str | None = key(
        None, "the encoder's weights; null: the published ones; `random`: to be trained (`freeze_vit: False`)"
    )
    vit_kwargs: dict[str, Any] | None = key(None, "overrides of the encoder's architecture")
    vit_precision: str = key(
        "fp16",
        "precision of the frozen encoder and Q-Former; what is trained is kept in float32",
        choices=("fp16", "bf16", "fp32"),
    )
    image_size: int = key(
        224, "side of the square picture in pixels; the image processor must make the same", low=1
    )
    drop_path_rate: float = key(0.0, "stochastic depth of the encoder, where it is trained", low=0, high=1)
    use_grad_checkpoint: bool = key(
        False, "the encoder, where it is trained, recomputes activations instead of keeping them"
    )
    freeze_vit: bool = key(True, "the encoder stays as it is")

    has_qformer: bool = key(True, "False: no Q-Former, neighbouring patches make one token")
    q_former_model: str | None = key(
        None,
        "BLIP-2's file with the Q-Former's weights; null: the published one; `random`: to be trained "
        "(`freeze_qformer: False`)",
    )
    q_former_kwargs: QFormerSettings = key(QFormerSettings)
    freeze_qformer: bool = key(True, "the Q-Former and its queries stay as they are")
    num_query_token: int = key(32, "tokens that the Q-Former makes of a picture", low=1)
    patches_per_token: int = key(
        4, "without a Q-Former, how many neighbours in raster order are joined to one token", low=1
    )

    tokens_per_frame: int | None = key(
        None,
        "average neighbouring tokens of a picture, and so of each frame of a video, until so many are left; "
        "null: all",
        low=1,
    )

    llama_model: str | None = key(None, "the language model: a folder, a hub id, a `.gguf` file; must be set")
    llm_backbone: str = key(
        "auto",
        "its family: `auto`, `llama`, `gemma`, `chatml`, `plain`, or yours. As in the Gemma fork, a path or "
        "hub id is the language model itself",
        names="backbone",
    )
    llm_type: str | None = key(None, "the Gemma fork's key for the family", names="backbone")
    llm_precision: str = key(
        "bf16",
        "its precision (`8bit`, `4bit`: `pip install .[quant]`); where it is trained, it is kept in float32",
        choices=("bf16", "fp16", "fp32", "8bit", "4bit"),
    )
    llm_trainable: str = key(
        "frozen",
        "what of it is trained: nothing (`frozen`), all its weights (`full`), or an adapter beside them "
        "(`lora`, which `lora_r` above 0 means anyway)",
        choices=("frozen", "lora", "full"),
    )
    lora_r: int = key(0, "rank of a LoRA adapter of the language model; 0: none", low=0)
    lora_alpha: int = key(16, "the adapter's output is multiplied by `lora_alpha / lora_r`", low=1)
    lora_dropout: float = key(0.05, "dropout of the adapter's input in training", low=0, high=0.99)
    lora_target_modules: list[str] | str = key(
        ["q_proj", "v_proj"],
        f"the linear layers that are adapted, by the last part of their names; `{ALL_LINEAR}`: all but the "
        "head",
    )
    lora_adapter: str | None = key(
        None,
        "a folder of peft's with an adapter to begin with (`adapter_config.json`, "
        "`adapter_model.safetensors`); null: none",
        path=True,
    )
    low_resource: bool = key(False, "the original's way to say `llm_precision: 8bit`")
    device_8bit: int | None = key(
        None, "the GPU for code that builds the model without naming a device", effect=False, low=0
    )
    llm_grad_checkpoint: bool = key(
        False, "the language model recomputes its layers in the backward pass instead of keeping activations"
    )
    use_grad_checkpoint_llm: bool = key(False, "the original's name for `llm_grad_checkpoint`")
    llm_sanity_check: bool = key(
        True, "warn at the start if the language model does not know English", effect=False
    )
    attn_implementation: str | None = key(
        None,
        "`sdpa`, `eager`, `flash_attention_2`, … as transformers names them (the encoder uses torch's SDPA "
        "unless it is `eager`); null: the fastest that the model supports here",
    )
    device_map: str | None = key(
        None,
        "`auto` spreads the language model over several cards, for inference; `shard` over the ranks, "
        "for training; null: one device",
    )
    compile: bool = key(
        False,
        "encoder, Q-Former and the language model's layers go through `torch.compile`; in chat, the step "
        "that decodes one token does",
    )

    prompt_path: str | None = key(
        None,
        "a file of instructions, one per line, of which training draws one per batch; lines without "
        "`<ImageHere>` are left out; null: the bare picture",
    )
    prompt_template: str | None = key(
        None, "how a request is written, with `{}` where it goes; null: the language model's own"
    )
    end_sym: str | None = key(None, "what ends a reply; null: the language model's own")
    chat_template: bool = key(
        False,
        "what data sets written for the original give as `instruction_input` is a request (True), or a whole "
        "prompt, marks and all (False)",
    )
    max_txt_len: int = key(
        32,
        "longest reply in training, end symbol included, in tokens; a longer one is cut before its end "
        "symbol",
        low=1,
    )
    max_context_len: int = key(3800, "longest prompt, picture included, in tokens", low=1)

    ckpt: str | None = key(None, "a checkpoint to begin with: ours or the original's; null: none")
    ckpt_allow_mismatch: bool = key(False, "load a `ckpt` that was trained with other parts")
    ckpt_embedding_convention: str | None = key(
        None,
        f"the scale of a `ckpt` for Gemma that other code made: `{TABLE_ROW}` with transformers before 5.4 "
        f"(the Gemma fork's), else `{FIRST_LAYER_INPUT}`; null: as the file says",
        choices=(FIRST_LAYER_INPUT, TABLE_ROW),
    )
    prompt: str | None = key(None, "stands in the original's defaults; nothing reads it", effect=False)

    def __post_init__(self) -> None:
        for weights, frozen in (("vit_weights", "freeze_vit"), ("q_former_model", "freeze_qformer")):
            used = weights == "vit_weights" or self.has_qformer
            if used and getattr(self, weights) == RANDOM and getattr(self, frozen):
                raise ConfigError(
                    f"model.{weights} is {RANDOM}, but model.{frozen} is True: please name a file or train it"
                )
        known = ":" in self.vit_model or self.vit_model in registry.list_encoders()
        if self.has_qformer and self.q_former_model is None and not known:
            raise ConfigError(
                f"model.q_former_model: the published Q-Former was trained with eva_clip_g, it cannot read "
                f"what {self.vit_model} makes: set has_qformer: False, or q_former_model: {RANDOM} and "
                "freeze_qformer: False, or name a file"
            )
        self._check_trainable()

    def _check_trainable(self) -> None:
        """Raise ConfigError where what is trained of the language model contradicts other keys."""
        if isinstance(self.lora_target_modules, str) and self.lora_target_modules != ALL_LINEAR:
            raise ConfigError(
                f"model.lora_target_modules is {self.lora_target_modules!r}, it must be a list of names or "
                f"{ALL_LINEAR}"
            )
        if not self.lora_target_modules:
            raise ConfigError("model.lora_target_modules is empty, it must name linear layers")
        if self.llm_trainable == "lora" and not self.lora_r:
            raise ConfigError("model.llm_trainable is lora: please set model.lora_r (MiniGPT-v2: 64)")
        if self.llm_trainable != "full":
            return
        if self.lora_r:
            raise ConfigError(
                f"model.llm_trainable is full, but model.lora_r is {self.lora_r}, which trains an adapter "
                "instead: please leave out one of the two (lora_r: 0)"
            )
        if self.low_resource or self.llm_precision in QUANTIZED:
            bits = "low_resource: True" if self.low_resource else f"llm_precision: {self.llm_precision}"
            raise ConfigError(
                f"model.llm_trainable is full, but quantised weights (model.{bits}) cannot be trained: "
                "model.lora_r trains an adapter beside them"
            )
        if self.device_map == SHARD:
            raise ConfigError(
                f"model.device_map: {SHARD} is for a frozen language model, but model.llm_trainable is full"
            )

    @classmethod
    def with_defaults(cls, section: Mapping[str, Any]) -> dict[str, Any]:
        """A section `model:` over the defaults of its type, or of the first type where it names none."""
        return merge_defaults(section, cls.TYPES, next(iter(cls.TYPES)))


@dataclass(frozen=True, kw_only=True)
class MiniGPTv2Settings(ModelSettings):
    """The same keys for MiniGPT-v2; its defaults are those of its model types."""

    TYPES: ClassVar[Mapping[str, str]] = MINIGPT_V2_TYPES
