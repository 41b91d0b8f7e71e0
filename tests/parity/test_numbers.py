"""The shipped model against what transformers 5.23 computed with its checkpoint."""

import json

import numpy as np
import pytest
from references import ROOT, TESTS, shared

import switchnp

ANSWERS = json.loads((TESTS / "parity/numbers/answers.json").read_text())
LOGITS = dict(np.load(TESTS / "parity/numbers/logits.npz"))


@pytest.fixture(scope="module", params=["kernels", "equations", "fast"])
def model(request):
    return switchnp.load(ROOT / "weights/switch-numbers.h5", engine=request.param)


def test_all_300_answers_are_the_reference_text_for_text(model):
    prompts = [case["prompt"] for case in ANSWERS]

    answers = model.generate(prompts)

    assert len(answers) == 300
    assert answers == [case["answer"] for case in ANSWERS]


def test_prompts_encode_and_answers_end_as_in_the_reference(model):
    for case in ANSWERS[:40]:
        ids = model.tokenizer.encode(case["prompt"])
        answer = model.generate(np.array(ids))[0]

        assert ids == case["input_ids"]
        assert answer.tolist() == [0, *case["output_ids"]]


def test_logits_are_within_2e_5_of_the_largest(model):
    given = LOGITS["input_ids"], LOGITS["attention_mask"], LOGITS["decoder_input_ids"]
    said = np.arange(LOGITS["logits"].shape[1]) < LOGITS["decoder_lengths"][:, None]

    out = model(*given)

    difference = np.abs(out.logits - LOGITS["logits"])[said].max()
    assert difference <= 2e-5 * np.abs(LOGITS["logits"]).max()


def test_router_logits_are_the_reference(model):
    trace = model.trace(LOGITS["input_ids"], LOGITS["attention_mask"], LOGITS["decoder_input_ids"])
    said = np.arange(LOGITS["logits"].shape[1]) < LOGITS["decoder_lengths"][:, None]

    encoder = trace.encoder.blocks[1].switch.h_te.reshape(8, -1, 8)
    decoder = trace.decoder.blocks[1].switch.h_te.reshape(8, -1, 8)

    real = LOGITS["attention_mask"] == 1
    np.testing.assert_allclose(encoder[real], LOGITS["encoder_router_logits"][real], rtol=0, atol=5e-5)
    np.testing.assert_allclose(decoder[said], LOGITS["decoder_router_logits"][said], rtol=0, atol=5e-5)


def test_the_shipped_file_is_what_the_checkpoint_converts_to(tmp_path):
    folder = shared("checkpoints/numbers-hf")

    switchnp.convert(folder, tmp_path / "numbers.h5")

    assert (tmp_path / "numbers.h5").read_bytes() == (ROOT / "weights/switch-numbers.h5").read_bytes()
