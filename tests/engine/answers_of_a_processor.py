"""A program that says what one processor computes, forced by NUMBA_CPU_NAME and NUMBA_CPU_FEATURES.

    python tests/engine/answers_of_a_processor.py weights.h5

Prints JSON: what the engine took from the processor, logits and answers of each dtype, those of the equations, and seconds.
"""

import json
import sys
import time

import numpy as np

import switchnp

TEXTS = ["say in French: 1984", "say in German: 84", "say in Spanish: 2026"]


def logits(model):
    """Those of 3 sentences and 4 words each, as a list."""
    ids = np.random.default_rng(0).integers(3, model.config.vocab_size, (3, 25))
    return model(ids, decoder_input_ids=ids[:, :4]).logits


def main(path):
    """Print all of it."""
    start = time.perf_counter()
    models = {dtype: switchnp.load(path, dtype=dtype, threads=2) for dtype in ("float32", "bfloat16", "int8")}
    found = {dtype: {"logits": logits(model).ravel().tolist()} for dtype, model in models.items()}
    for dtype, model in models.items():
        found[dtype]["answers"] = [model.generate(text) for text in TEXTS]
        found[dtype]["scores"] = [word for text in TEXTS for word in model.score(text, "mille neuf").logprobs]
    seconds = time.perf_counter() - start
    plain = switchnp.load(path, engine="equations")
    found["equations"] = {"logits": logits(plain).ravel().tolist(), "answers": [plain.generate(text) for text in TEXTS]}
    from switchnp.engine.instructions import FOLDS, LANES

    sys.stdout.write(json.dumps(found | {"lanes": LANES, "folds": FOLDS, "seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1])
