"""lm-evaluation-harness, in an environment of its own, asks a bundle what `edgeq eval` asks it."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import edgeq

ROOT = Path(__file__).resolve().parents[1]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{prompt}}}}"
target_delimiter: ""
"""
CHOICE = TASK + "doc_to_target: answer\ndoc_to_choice: choices\nmetric_list: [{{metric: acc}}]\n"
EXACT = TASK + ('doc_to_target: "{{{{target}}}}"\ngeneration_kwargs: {{until: ["\\n"], max_gen_toks: 8}}\n'
                "metric_list: [{{metric: exact_match}}]\n")


@pytest.mark.full
def test_the_harness_finds_what_edgeq_eval_finds(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    from language_bundles import bundle

    made = bundle(tmp_path)
    words, prompts = (" world", " it's", " and", " x", " banana", " Hello"), ("Hello", "def f(x", "two spaces")
    lines = [{"prompt": prompt, "choices": [first, second], "answer": 0}
             for prompt in prompts for first in words for second in words if first < second]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (found,) = edgeq.evaluate(made, tasks=tmp_path / "tasks.jsonl").scores
    assert 0 < found.score < 100
    says = said_by(made, "Hello")
    (tmp_path / "exact.jsonl").write_text(json.dumps({"prompt": "Hello", "target": says}))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "c.yaml").write_text(CHOICE.format(name="c", data=tmp_path / "tasks.jsonl", kind="multiple_choice"))
    (tasks / "e.yaml").write_text(EXACT.format(name="e", data=tmp_path / "exact.jsonl", kind="generate_until"))
    python = environment(tmp_path / "env")
    result = subprocess.run(
        [python, ROOT / "samples/lm_eval/evaluate.py", made, "--tasks", "c", "e", "--include-path", tasks],
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime"), "HF_HOME": str(tmp_path / "hf")}, check=True,
        capture_output=True, text=True)
    rows = {line.split("|")[1].strip(): float(line.split("|")[7]) for line in result.stdout.splitlines()
            if line.startswith(("|c ", "|e "))}
    assert rows["c"] == pytest.approx(found.score / 100, abs=1e-4)
    assert rows["e"] == 1


def said_by(made: Path, prompt: str) -> str:
    import edgeq_runtime

    with edgeq_runtime.load(made) as model:
        said = model.generate(prompt, max_tokens=8, temperature=0, stream=False).text
    return str(said).split("\n")[0]


def environment(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    subprocess.run([python, "-m", "pip", "-q", "--disable-pip-version-check", "install", "lm_eval==0.4.13", "jinja2",
                    "numpy", "tokenizers", "xllamacpp==2026.10.11549"], check=True)
    return python
