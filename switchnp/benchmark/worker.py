"""One contender in a process of its own: `python worker.py SPEC` answers requests on stdin, a line of JSON each, on stdout.

    {"encode": [B, S]}      seconds that the encoder takes for B sentences of S tokens
    {"decode": [B, S, n]}   seconds for n more tokens of each answer, behind the first
    {"first": [B, S]}       seconds to the first token
    {"memory": []}          bytes of memory, now and at most

Runs under any Python that has the contender's library, so it imports nothing of switchnp but the engine that it measures.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from typing import Any

FIRST_WORD = 3


def main() -> None:
    """Load what the spec names, say how long that took, and answer till stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.path[:] = [place for place in sys.path if place != os.path.dirname(os.path.abspath(__file__))]
    spec = json.loads(sys.argv[1])
    start = time.perf_counter()
    contender = CONTENDERS[spec["library"]](spec)
    imported = time.perf_counter()
    contender.load()
    loaded = time.perf_counter()
    hello = {"import": imported - start, "load": loaded - imported, "versions": contender.versions()}
    answers.write(json.dumps(hello) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(answered(contender, line)) + "\n")


def answered(contender: Any, line: str) -> dict[str, Any]:
    """The answer to one request."""
    try:
        [(request, numbers)] = json.loads(line).items()
        return REQUESTS[request](contender, *numbers)
    except Exception as error:
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}


def encode(contender: Any, sentences: int, length: int) -> dict[str, Any]:
    """How long the encoder takes."""
    prompts = contender.prompts(words(sentences, length, contender.spec["vocabulary"]))
    return {"value": seconds(contender.encode, prompts)}


def decode(contender: Any, sentences: int, length: int, steps: int) -> dict[str, Any]:
    """How long `steps` tokens take, where the first, with the encoder's time in it, is taken off."""
    prompts = contender.prompts(words(sentences, length, contender.spec["vocabulary"]))
    first = seconds(said, contender, prompts, sentences, 1)
    return {"value": seconds(said, contender, prompts, sentences, 1 + steps) - first}


def first_token(contender: Any, sentences: int, length: int) -> dict[str, Any]:
    """How long the first token takes."""
    prompts = contender.prompts(words(sentences, length, contender.spec["vocabulary"]))
    return {"value": seconds(said, contender, prompts, sentences, 1)}


def memory(contender: Any) -> dict[str, Any]:
    """What Linux says of this process: the peak, what is there now, and how much of that are pages of files."""
    with open("/proc/self/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    names = {"value": "VmHWM", "resident": "VmRSS", "mapped": "RssFile"}
    return {name: 1024 * int(lines[theirs].split()[0]) for name, theirs in names.items()}


REQUESTS: dict[str, Any] = {"encode": encode, "decode": decode, "first": first_token, "memory": memory}


def said(contender: Any, prompts: Any, sentences: int, count: int) -> None:
    """Have `count` tokens said, and see that they were."""
    lengths = contender.generate(prompts, count)
    if list(lengths) != [count] * sentences:
        raise ValueError(f"answers of {list(lengths)} tokens, expected {count} each")


def seconds(function: Any, *arguments: Any) -> float:
    """The time of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def words(sentences: int, length: int, vocabulary: int) -> list[list[int]]:
    """The same ids for every contender; none of them is special."""
    rng = random.Random(length)
    return [[rng.randrange(FIRST_WORD, vocabulary) for _ in range(length)] for _ in range(sentences)]


class Ours:
    """switchnp."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import numpy

        import switchnp

        self.spec, self.numpy, self.library = spec, numpy, switchnp

    def load(self) -> None:
        """The weights file."""
        options = {} if self.spec["engine"] == "kernels" else {"dtype": self.spec["dtype"], "threads": self.spec["threads"]}
        self.model = self.library.load(self.spec["path"], engine=self.spec["engine"], **options)

    def versions(self) -> dict[str, str]:
        """Of everything that matters."""
        return {"switchnp": self.library.__version__, "numpy": self.numpy.__version__}

    def prompts(self, ids: list[list[int]]) -> Any:
        """Ids as it takes them."""
        return self.numpy.array(ids)

    def encode(self, prompts: Any) -> None:
        """The encoder alone."""
        self.model.encode(prompts)

    def generate(self, prompts: Any, count: int) -> list[int]:
        """Greedy answers of `count` tokens; their lengths."""
        ids = self.model.generate(prompts, max_new_tokens=count, min_new_tokens=count)
        return [ids.shape[1] - 1] * len(ids)


class Transformers:
    """Hugging Face transformers on torch."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import torch
        from transformers import SwitchTransformersForConditionalGeneration as Switch

        torch.set_num_threads(spec["threads"])
        self.spec, self.torch, self.library = spec, torch, Switch

    def load(self) -> None:
        """The folder."""
        dtype = getattr(self.torch, self.spec["dtype"])
        self.model = self.library.from_pretrained(self.spec["path"], dtype=dtype).eval()
        self.model.generation_config.pad_token_id = self.model.config.pad_token_id

    def versions(self) -> dict[str, str]:
        """Of everything that matters."""
        import transformers

        return {"transformers": transformers.__version__, "torch": self.torch.__version__}

    def prompts(self, ids: list[list[int]]) -> Any:
        """Ids as it takes them."""
        return self.torch.tensor(ids)

    def encode(self, prompts: Any) -> None:
        """The encoder alone."""
        with self.torch.inference_mode():
            self.model.get_encoder()(prompts)

    def generate(self, prompts: Any, count: int) -> list[int]:
        """Greedy answers of `count` tokens; their lengths."""
        with self.torch.inference_mode():
            ids = self.model.generate(
                prompts,
                attention_mask=self.torch.ones_like(prompts),
                do_sample=False,
                max_new_tokens=count,
                min_new_tokens=count,
            )
        return [ids.shape[1] - 1] * len(ids)


class CTranslate2:
    """CTranslate2 on a dense T5; its encoder alone is a model of its own, loaded where it is asked for."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import ctranslate2

        self.spec, self.library = spec, ctranslate2
        self.options = {
            "device": "cpu",
            "compute_type": spec["dtype"],
            "intra_threads": spec["threads"],
            "inter_threads": 1,
        }
        self.encoder: Any = None

    def load(self) -> None:
        """The folder."""
        self.model = self.library.Translator(f"{self.spec['path']}/whole", **self.options)

    def versions(self) -> dict[str, str]:
        """Of everything that matters."""
        return {"ctranslate2": self.library.__version__}

    def prompts(self, ids: list[list[int]]) -> Any:
        """Ids as it takes them: as words."""
        return [[f"w{word}" for word in sentence] for sentence in ids]

    def encode(self, prompts: Any) -> None:
        """The encoder alone."""
        if self.encoder is None:
            self.encoder = self.library.Encoder(f"{self.spec['path']}/encoder", **self.options)
        self.encoder.forward_batch(prompts)

    def generate(self, prompts: Any, count: int) -> list[int]:
        """Greedy answers of `count` tokens; their lengths."""
        answers = self.model.translate_batch(
            prompts, beam_size=1, min_decoding_length=count, max_decoding_length=count, max_input_length=0
        )
        return [len(answer.hypotheses[0]) for answer in answers]


CONTENDERS: dict[str, Any] = {"switchnp": Ours, "transformers": Transformers, "ctranslate2": CTranslate2}

if __name__ == "__main__":
    main()
