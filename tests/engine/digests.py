"""The bits of everything that the fast engine answers, as one digest a case; also a program that prints them."""

import hashlib
import json
import sys

import numpy as np
from drawn import OPEN, batch_of, config_of, params_of

from switchnp import Routing, SwitchTransformer

SPARSE = {"sparse_encoder_layers": (0,), "sparse_decoder_layers": (0,), "num_layers": 2, "num_decoder_layers": 2}
WIDE = {"d_model": 192, "d_ff": 520, "d_kv": 16, "num_heads": 9, "vocab_size": 131}
CASES = {
    "drawn 1": (1, None, OPEN, {}),
    "drawn 2": (2, None, OPEN, SPARSE),
    "drawn in bfloat16": (3, "bfloat16", OPEN, SPARSE),
    "drawn in int8": (4, "int8", OPEN, SPARSE),
    "wide": (5, None, Routing.flaxformer(8), WIDE | SPARSE),
    "wide in bfloat16": (6, "bfloat16", Routing.huggingface(), WIDE | SPARSE),
    "wide in int8": (7, "int8", Routing.paper(), WIDE | SPARSE),
    "drawn 8": (8, None, Routing.mesh_tf(5), SPARSE),
    "wide, gated": (9, None, OPEN, WIDE | SPARSE | {"is_gated_act": True, "dense_act_fn": "gelu_new"}),
    "wide, gated, in int8": (10, "int8", OPEN, WIDE | SPARSE | {"is_gated_act": True}),
    "odd in int8": (11, "int8", OPEN, {"d_model": 9, "d_ff": 7, "d_kv": 5, "num_heads": 3}),
    "odd in bfloat16": (12, "bfloat16", OPEN, {"d_model": 9, "d_ff": 7, "d_kv": 5, "num_heads": 3}),
}


def digest(case, threads):
    """What a model of this case says to a batch, and how probable it finds it."""
    seed, dtype, routing, changes = CASES[case]
    rng = np.random.default_rng(seed)
    config = config_of(rng, **changes)
    model = SwitchTransformer(config, params_of(config, rng), routing, engine="fast", dtype=dtype, threads=threads)
    sha = hashlib.sha256()
    for sentences, length in ((20, 9), (1, 5), (3, 70), (7, 1)):
        ids, mask = batch_of(rng, config, sentences, length)
        out = model(ids, mask, ids[::-1])
        found = model.generate(ids, mask, 6, num_beams=3, return_scores=True)
        told = model.score(ids, ids[:, :3].tolist())
        numbers = [each.score for each in found], [each.logprobs for each in told]
        said = [each.ids for each in found]
        for array in (out.logits, out.encoder_last_hidden_state, out.decoder_last_hidden_state, *map(np.array, numbers)):
            assert np.isfinite(array).all()
            sha.update(np.ascontiguousarray(array).tobytes())
        sha.update(repr(said).encode())
    return sha.hexdigest()


if __name__ == "__main__":
    sys.stdout.write(json.dumps({case: digest(case, int(sys.argv[1])) for case in reversed(CASES)}))
