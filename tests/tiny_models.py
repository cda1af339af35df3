"""Small random-weight checkpoints, complete with tokenizer, processor and chat template.

They are real transformers checkpoints in every part but the weights, so that tests run the same
code as a user's model does, in milliseconds and without a network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

IMAGE_TOKEN = "<image>"

CHAT_TEMPLATE = """\
{%- if tools %}<|im_start|>system
You may call these functions:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}To call one, answer with <tool_call>{"name": ..., "arguments": ...}</tool_call>
<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['role'] == 'assistant' -%}
{% generation %}
{%- if message['content'] is string %}{{ message['content'] }}{% else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' %}<image>{% endif -%}
{%- if part['type'] == 'text' %}{{ part['text'] }}{% endif -%}
{%- endfor -%}
{%- endif -%}
{%- for call in message.get('tool_calls') or [] -%}
<tool_call>{{ call['function'] | tojson }}</tool_call>
{%- endfor -%}
<|im_end|>{% endgeneration %}
{% else -%}
{%- if message['content'] is string %}{{ message['content'] }}{% else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' %}<image>{% endif -%}
{%- if part['type'] == 'text' %}{{ part['text'] }}{% endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""

_CORPUS = [
    "You are a kind companion who looks at pictures and remembers what people tell you.",
    "What do you see in the picture? I see a red apple, a blue car and a small cat.",
    "Hello! How are you today? I am fine, thank you. Please tell me about the weather.",
    "system user assistant tool name arguments the quick brown fox jumps over the lazy dog",
    "My order number is A-17 and I am allergic to nuts. What do you remember about my order?",
] * 4
_TOWER: dict[str, Any] = {  # one that sees 16 patches
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


def build_tokenizer(
    vocab_size: int = 512,
    extra_tokens: tuple[str, ...] = (),
    named: dict[str, str] | None = None,
) -> Any:
    """A byte-level BPE tokenizer with ChatML tokens and `<image>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", IMAGE_TOKEN, *extra_tokens]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        # Some processors ask the tokenizer for their tokens by name.
        extra_special_tokens=named or [IMAGE_TOKEN, *extra_tokens],
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _llama(vocab_size: int, max_positions: int = 2048) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_positions,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.3,
    )


def _save(model: Any, processor: Any, folder: Path) -> Path:
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _clip_pictures(size: int) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )


def build_llava(folder: Path, *, max_positions: int = 2048) -> Path:
    """LLaVA with a CLIP tower: 32x32 pixels, patch 8, 16 image tokens a picture."""
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(7)
    tokenizer = build_tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_TOWER, initializer_range=0.3),
        text_config=_llama(len(tokenizer), max_positions),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
    )
    processor = LlavaProcessor(
        image_processor=_clip_pictures(32),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    return _save(LlavaForConditionalGeneration(config).eval(), processor, folder)


def build_fastvlm(folder: Path) -> Path:
    """The bundled model's architecture: a convolutional tower, 25 image tokens a picture."""
    import torch
    from transformers import (
        EfficientNetConfig,
        FastVlmConfig,
        FastVlmForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(7)
    tokenizer = build_tokenizer()
    vision = EfficientNetConfig(
        image_size=160,
        width_coefficient=0.25,
        depth_coefficient=0.25,
        hidden_dim=320,  # what the tower makes of 1280 at this width
        hidden_size=320,
        initializer_range=0.3,
    )
    config = FastVlmConfig(
        vision_config=vision,
        text_config=_llama(len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=25,
    )
    processor = LlavaProcessor(
        image_processor=_clip_pictures(160),
        tokenizer=tokenizer,
        patch_size=32,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )
    return _save(FastVlmForConditionalGeneration(config).eval(), processor, folder)


def build_text_only(folder: Path, *, dtype: Any = None, tied: bool = False) -> Path:
    """A causal language model that takes no pictures."""
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(7)
    tokenizer = build_tokenizer()
    config = _llama(len(tokenizer))
    config.tie_word_embeddings = tied
    return _save(LlamaForCausalLM(config).eval().to(dtype), tokenizer, folder)


def build_llava_next(folder: Path) -> Path:
    """LLaVA-NeXT: pictures are cut into tiles, so their number of tokens depends on their shape."""
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextProcessor,
    )
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    torch.manual_seed(7)
    tokenizer = build_tokenizer()
    grid = [[32, 64], [64, 32], [64, 64]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**_TOWER, initializer_range=0.3),
        text_config=_llama(len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_grid_pinpoints=grid,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": 32},
            crop_size={"height": 32, "width": 32},
            image_grid_pinpoints=grid,
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    return _save(LlavaNextForConditionalGeneration(config).eval(), processor, folder)


def build_idefics3(folder: Path) -> Path:
    """Idefics3: its processor has a call of its own, and writes rows and columns of tiles."""
    import torch
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    torch.manual_seed(7)
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    more = ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *tiles)
    tokenizer = build_tokenizer(extra_tokens=more)
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(
            size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
        ),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=CHAT_TEMPLATE,
    )
    config = Idefics3Config(
        vision_config={**_TOWER, "initializer_range": 0.3},
        text_config=_llama(len(tokenizer)),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        pad_token_id=0,
    )
    return _save(Idefics3ForConditionalGeneration(config).eval(), processor, folder)


def build_gemma3(folder: Path) -> Path:
    """Gemma 3: pictures seen in both directions, and layers that look at the last tokens only."""
    import torch
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3Processor,
        Gemma3TextConfig,
        SiglipVisionConfig,
    )
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    torch.manual_seed(7)
    more = ("<start_of_image>", "<end_of_image>")
    named = {"boi_token": more[0], "eoi_token": more[1], "image_token": IMAGE_TOKEN}
    tokenizer = build_tokenizer(extra_tokens=more, named=named)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (IMAGE_TOKEN, *more)}
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": 32, "width": 32}),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=CHAT_TEMPLATE.replace(IMAGE_TOKEN, more[0]),
    )
    text = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=2048,
        sliding_window=32,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        initializer_range=0.3,
        query_pre_attn_scalar=12,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    vision = SiglipVisionConfig(
        **_TOWER,
        vision_use_head=False,
    )
    config = Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        boi_token_index=ids[more[0]],
        eoi_token_index=ids[more[1]],
        image_token_index=ids[IMAGE_TOKEN],
        tie_word_embeddings=False,
    )
    return _save(Gemma3ForConditionalGeneration(config).eval(), processor, folder)


def _qwen_pictures(kind: str) -> Any:
    """Their picture processor, made explicitly: the one for video needs torchvision."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    patch = 8 if kind == "qwen2_5_vl" else 16
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": 16 * patch * patch, "longest_edge": 64 * patch * patch},
        patch_size=patch,
        temporal_patch_size=2,
        merge_size=2,
    )


def _build_qwen(kind: str, folder: Path) -> Path:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(7)
    more = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    tokenizer = build_tokenizer(extra_tokens=more)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in more}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 2048,
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 2, 2],
        },
    }
    vision: dict[str, Any] = {"depth": 3, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 48,
                              "intermediate_size": 64, "initializer_range": 0.3}  # fmt: skip
    if kind == "qwen2_5_vl":
        vision |= {"patch_size": 8, "window_size": 32, "fullatt_block_indexes": [1]}
    else:
        vision |= {"patch_size": 16, "deepstack_visual_indexes": [0, 1],
                   "num_position_embeddings": 64}  # fmt: skip
    config = AutoConfig.for_model(
        kind,
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    template = CHAT_TEMPLATE.replace(IMAGE_TOKEN, "<|vision_start|><|image_pad|><|vision_end|>")
    processor = _qwen_processor(kind, tokenizer, template)
    return _save(AutoModelForImageTextToText.from_config(config).eval(), processor, folder)


def _qwen_processor(kind: str, tokenizer: Any, template: str) -> Any:
    import transformers

    from mmagent.engine.loading import without_video

    name = {"qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen3_vl": "Qwen3VLProcessor"}[kind]
    # As if saved where torchvision is: here the part for video cannot even be made.
    return without_video(getattr(transformers, name))(
        image_processor=_qwen_pictures(kind), tokenizer=tokenizer, chat_template=template
    )


def build_qwen2_5_vl(folder: Path) -> Path:
    """Qwen2.5-VL: positions with rows and columns, and as many tokens as a picture is large."""
    return _build_qwen("qwen2_5_vl", folder)


def build_qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL: besides, the vision tower's layers feed several layers of the language model."""
    return _build_qwen("qwen3_vl", folder)


def build_paligemma(folder: Path) -> Path:
    """PaliGemma: attention over a prompt goes in both directions."""
    import torch
    from transformers import (
        GemmaConfig,
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipVisionConfig,
    )
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    torch.manual_seed(7)
    tokenizer = build_tokenizer()
    pictures = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    pictures.image_seq_length = 16
    processor = PaliGemmaProcessor(
        image_processor=pictures, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE
    )
    text = GemmaConfig(
        vocab_size=len(processor.tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=2048,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    vision = SiglipVisionConfig(
        **_TOWER,
        vision_use_head=False,
        num_image_tokens=16,
    )
    config = PaliGemmaConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=48,
        image_token_index=processor.image_token_id,
        tie_word_embeddings=False,
    )
    return _save(PaliGemmaForConditionalGeneration(config).eval(), processor, folder)


def build_moonshine(folder: Path) -> Path:
    """A speech recogniser of two layers that knows five words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        MoonshineConfig,
        MoonshineForConditionalGeneration,
        PreTrainedTokenizerFast,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2Processor,
    )

    words = ["<unk>", "<s>", "</s>", "one", "two", "three", "four", "five"]
    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    torch.manual_seed(0)
    config = MoonshineConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        pad_token_id=2,
    )
    model = MoonshineForConditionalGeneration(config)
    model.generation_config.max_length = 12
    model.save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=16_000, return_attention_mask=True)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    return folder


def _whisper_ears() -> Any:
    """Hears two seconds at a time: 200 frames of 16 numbers, 50 tokens."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=16, chunk_length=2, sampling_rate=16_000)


def _hearing_template(written: str) -> str:
    text = "{%- if part['type'] == 'text' %}"
    heard = "{%- if part['type'] == 'audio' %}" + written + "{% endif -%}"
    return CHAT_TEMPLATE.replace(text, f"{heard}\n{text}")


_HEARING: dict[str, Any] = {  # an encoder for 200 frames
    "num_mel_bins": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "d_model": 32,
    "max_source_positions": 100,
    "initializer_range": 0.3,
}


def _qwen2(vocab_size: int) -> Any:
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.3,
    )


def build_qwen2_audio(folder: Path) -> Path:
    """Qwen2-Audio: takes sound and no pictures; 25 tokens a second, two seconds a recording."""
    import torch
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioEncoderConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
    )

    torch.manual_seed(7)
    more = ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    tokenizer = build_tokenizer(extra_tokens=more)
    processor = Qwen2AudioProcessor(
        feature_extractor=_whisper_ears(),
        tokenizer=tokenizer,
        chat_template=_hearing_template("<|audio_bos|><|AUDIO|><|audio_eos|>"),
    )
    config = Qwen2AudioConfig(
        audio_config=Qwen2AudioEncoderConfig(**_HEARING),
        text_config=_qwen2(len(tokenizer)),
        audio_token_index=tokenizer.convert_tokens_to_ids(more[0]),
    )
    return _save(Qwen2AudioForConditionalGeneration(config).eval(), processor, folder)


def build_audio_flamingo(folder: Path) -> Path:
    """Audio Flamingo 3: a recording of any length, heard two seconds at a time."""
    import torch
    from transformers import (
        AudioFlamingo3Config,
        AudioFlamingo3EncoderConfig,
        AudioFlamingo3ForConditionalGeneration,
        AudioFlamingo3Processor,
    )

    torch.manual_seed(7)
    tokenizer = build_tokenizer(extra_tokens=("<sound>",))
    processor = AudioFlamingo3Processor(
        feature_extractor=_whisper_ears(),
        tokenizer=tokenizer,
        chat_template=_hearing_template("<sound>"),
        audio_token="<sound>",
    )
    encoder = {
        "num_mel_bins": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "hidden_size": 32,
        "max_source_positions": 100,
        "initializer_range": 0.3,
    }
    config = AudioFlamingo3Config(
        audio_config=AudioFlamingo3EncoderConfig(**encoder),
        text_config=_qwen2(len(tokenizer)),
        audio_token_id=tokenizer.convert_tokens_to_ids("<sound>"),
    )
    return _save(AudioFlamingo3ForConditionalGeneration(config).eval(), processor, folder)


def build_mamba(folder: Path) -> Path:
    """A recurrent language model: its state has no tokens to go back to."""
    import torch
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(7)
    tokenizer = build_tokenizer()
    config = MambaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        state_size=8,
        num_hidden_layers=2,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return _save(MambaForCausalLM(config).eval(), tokenizer, folder)


def build_adapter(base: Path, folder: Path, seed: int, **options: Any) -> Path:
    """A LoRA adapter with random weights for a checkpoint."""
    import warnings

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    torch.manual_seed(seed)
    sees = hasattr(AutoConfig.from_pretrained(base), "vision_config")
    reader: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT, of a name in transformers
        model = get_peft_model(reader.from_pretrained(base), LoraConfig(**settings | options))
        model.save_pretrained(folder)
    return folder
