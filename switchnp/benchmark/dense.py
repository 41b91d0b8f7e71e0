"""A dense T5 of a Switch model's shape for CTranslate2: `python dense.py CONFIG FOLDER` makes it, with random weights.

A token meets one expert, so a dense layer of the same width does the same operations. Runs under the Python that has
CTranslate2 and transformers, and imports nothing of switchnp. FOLDER/float32 and FOLDER/int8 get `whole`, and `encoder`,
which is the encoder alone.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

SPECIAL = ("<pad>", "</s>", "<unk>")


def main() -> None:
    """Make both, whole or not at all."""
    sys.path[:] = [place for place in sys.path if place != os.path.dirname(os.path.abspath(__file__))]
    config, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "made"
        write_dense(Path(temporary), config)
        convert_both(Path(temporary), made)
        made.rename(folder)


def write_dense(folder: Path, config: dict[str, Any]) -> None:
    """A T5 as transformers saves it, and a tokenizer of so many words."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    T5ForConditionalGeneration(T5Config(**config, decoder_start_token_id=0)).eval().save_pretrained(folder)
    names = [*SPECIAL, *(f"w{word}" for word in range(len(SPECIAL), config["vocab_size"]))]
    words = Tokenizer(WordLevel({name: word for word, name in enumerate(names)}, unk_token="<unk>"))
    special = dict(zip(("pad_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)


def convert_both(folder: Path, made: Path) -> None:
    """The whole model by CTranslate2's own converter, and its encoder under the specification of encoders."""
    from ctranslate2.converters import TransformersConverter
    from ctranslate2.specs import TransformerEncoderModelSpec

    class Encoder(TransformersConverter):
        def _load(self) -> Any:
            whole = super()._load()
            spec = TransformerEncoderModelSpec(whole.encoder)
            spec.register_vocabulary(whole._vocabularies["source"][0])
            spec.config.layer_norm_epsilon = 1e-6
            return spec

    for dtype in ("float32", "int8"):
        for name, converter in (("whole", TransformersConverter), ("encoder", Encoder)):
            (made / dtype).mkdir(parents=True, exist_ok=True)
            converter(str(folder)).convert(str(made / dtype / name), quantization=dtype)


if __name__ == "__main__":
    main()
