"""Writes random weights of Qwen2.5-0.5B's shape for speed measurements.

    random_qwen.py DIR [--seed 20]

DIR/qwen-0.5b/          Hugging Face directory, bf16, 988 MB
DIR/qwen-0.5b-q8_0.gguf the same weights as Q8_0
DIR/qwen-0.5b-q4_0.gguf the same weights as Q4_0

Both GGUF files are pure: every matrix, the token embedding too, has the file's type,
and the embedding is the head as well (llama.cpp's own Q4_0 files keep the head in
Q6_K, which is slower). Norms and biases are F32. Speed does not depend on the values;
they are Gaussian with a deviation of 0.02, as before training.
"""

import argparse
import json
import pathlib

import gguf
import numpy as np

SHAPE = {
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
}
HEAD_DIM = 64
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Ids of the text tokens, the special ones and rows no token uses, as in Qwen's own.
TEXT_TOKENS = 151643
END = TEXT_TOKENS + 2
TYPES = {"q8_0": gguf.GGMLQuantizationType.Q8_0, "q4_0": gguf.GGMLQuantizationType.Q4_0}


def tensors() -> list[tuple[str, str, tuple[int, ...]]]:
    """Hugging Face's name, GGUF's name and the shape of each tensor, in file order."""
    hidden, inner = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    keys = SHAPE["num_key_value_heads"] * HEAD_DIM
    all_ = [("model.embed_tokens.weight", "token_embd.weight", (SHAPE["vocab_size"], hidden))]
    for layer in range(SHAPE["num_hidden_layers"]):
        ours, theirs = f"model.layers.{layer}.", f"blk.{layer}."
        rows = {"q": hidden, "k": keys, "v": keys}
        for letter, size in rows.items():
            name, short = f"{ours}self_attn.{letter}_proj.", f"{theirs}attn_{letter}."
            all_ += [
                (name + "weight", short + "weight", (size, hidden)),
                (name + "bias", short + "bias", (size,)),
            ]
        all_ += [
            (ours + "self_attn.o_proj.weight", theirs + "attn_output.weight", (hidden, hidden)),
            (ours + "mlp.gate_proj.weight", theirs + "ffn_gate.weight", (inner, hidden)),
            (ours + "mlp.up_proj.weight", theirs + "ffn_up.weight", (inner, hidden)),
            (ours + "mlp.down_proj.weight", theirs + "ffn_down.weight", (hidden, inner)),
            (ours + "input_layernorm.weight", theirs + "attn_norm.weight", (hidden,)),
            (ours + "post_attention_layernorm.weight", theirs + "ffn_norm.weight", (hidden,)),
        ]
    return all_ + [("model.norm.weight", "output_norm.weight", (hidden,))]


def draw(at: int, name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The tensor's bf16 bits; each tensor has a generator of its own."""
    generator = np.random.default_rng([seed, at])
    values = generator.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
    if "norm" in name:
        values += np.float32(1.0)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widened(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_safetensors(path: pathlib.Path, seed: int) -> None:
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, _, shape in tensors():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for at, (name, _, shape) in enumerate(tensors()):
            file.write(draw(at, name, shape, seed).tobytes())


def letters() -> list[str]:
    """GPT-2's letters for the 256 bytes, in the order of Qwen's vocabulary."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in kept] + [chr(256 + i) for i in range(256 - len(kept))]


def vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    """The text tokens and the merges that make them.

    " a" to " zzz" and their kin: each token is a known one and a letter, so that every
    one of them can be reached and random answers are readable.
    """
    tokens = letters()
    merges = [("Ġ", letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokens += ["".join(merge) for merge in merges]
    stems = list(tokens[256:])
    while len(tokens) < TEXT_TOKENS:
        longer = [(stem, letter) for stem in stems for letter in "abcdefghijklmnopqrstuvwxyz"]
        longer = longer[: TEXT_TOKENS - len(tokens)]
        merges += longer
        stems = ["".join(merge) for merge in longer]
        tokens += stems
    return tokens, merges


def write_directory(directory: pathlib.Path, seed: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    config = SHAPE | {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": TEXT_TOKENS,
        "eos_token_id": END,
        "hidden_act": "silu",
        "max_window_layers": 21,
        "model_type": "qwen2",
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
    }
    tokens, merges = vocabulary()
    special = lambda at: {
        "id": TEXT_TOKENS + at,
        "content": SPECIALS[at],
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": True,
    }
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special(at) for at in range(len(SPECIALS))],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: at for at, token in enumerate(tokens)},
            "merges": [list(merge) for merge in merges],
        },
    }
    template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
        "message['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    files = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": [END, TEXT_TOKENS], "do_sample": False},
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "model_max_length": 32768,
            "chat_template": template,
        },
    }
    for name, value in files.items():
        (directory / name).write_text(json.dumps(value, ensure_ascii=False) + "\n")
    write_safetensors(directory / "model.safetensors", seed)


def write_gguf(path: pathlib.Path, kind: gguf.GGMLQuantizationType, seed: int) -> None:
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name("qwen-0.5b-random")
    writer.add_block_count(SHAPE["num_hidden_layers"])
    writer.add_context_length(SHAPE["max_position_embeddings"])
    writer.add_embedding_length(SHAPE["hidden_size"])
    writer.add_feed_forward_length(SHAPE["intermediate_size"])
    writer.add_head_count(SHAPE["num_attention_heads"])
    writer.add_head_count_kv(SHAPE["num_key_value_heads"])
    writer.add_rope_freq_base(SHAPE["rope_theta"])
    writer.add_layer_norm_rms_eps(SHAPE["rms_norm_eps"])
    file_type = {"q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0}
    writer.add_file_type(file_type[kind.name.lower()])
    tokens, merges = vocabulary()
    unused = SHAPE["vocab_size"] - len(tokens) - len(SPECIALS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens + SPECIALS + [f"[PAD{at}]" for at in range(unused)])
    writer.add_token_types(
        [gguf.TokenType.NORMAL] * len(tokens)
        + [gguf.TokenType.CONTROL] * len(SPECIALS)
        + [gguf.TokenType.UNUSED] * unused
    )
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(False)
    for at, (name, short, shape) in enumerate(tensors()):
        values = widened(draw(at, name, shape, seed))
        if len(shape) == 1:
            writer.add_tensor(short, values)
        else:
            writer.add_tensor(short, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=20)
    arguments = parser.parse_args()
    write_directory(arguments.dir / "qwen-0.5b", arguments.seed)
    for suffix, kind in TYPES.items():
        # Under another name until it is whole.
        part = arguments.dir / f"qwen-0.5b-{suffix}.gguf.part"
        write_gguf(part, kind, arguments.seed)
        part.rename(part.with_suffix(""))


if __name__ == "__main__":
    main()
