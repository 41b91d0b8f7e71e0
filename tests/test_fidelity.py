"""Two models on the same texts: what is counted is what a reader of both traces would count."""

from dataclasses import replace

import numpy as np
import pytest
from references import ROOT
from small import small_model

import switchnp
from switchnp import Routing, SwitchTransformer
from switchnp.errors import InputError, TokenizerError
from switchnp.fidelity import Fidelity, measured

PAPER = Routing.paper()
TEXTS = ([5, 6, 7, 8, 9, 10, 5, 6], [11, 12, 13], [1])


def nearly(model, by=0.02):
    """The model with a little noise on its weights."""
    rng = np.random.default_rng(9)
    noisy = model.params.map(lambda leaf: (leaf + by * rng.normal(size=leaf.shape)).astype(leaf.dtype))
    return SwitchTransformer(model.config, noisy, model.routing, model.tokenizer, model.engine)


def test_a_model_is_its_own_equal():
    found = measured(small_model(), small_model(), TEXTS)

    assert found == Fidelity(routed={"encoder/blocks/1": 1.0, "decoder/blocks/1": 1.0}, largest=0.0, mean=0.0, texts=3, agreed=3)


@pytest.mark.parametrize(
    "routing",
    [
        PAPER,
        replace(PAPER, capacity=2),
        replace(PAPER, router="top k", decoder_router="top 1"),
        replace(PAPER, router="expert choice", decoder_router="top 1"),
        Routing.flaxformer(group_tokens=3),
    ],
)
@pytest.mark.parametrize("by", [0.02, 0.2])
def test_every_figure_is_that_of_the_traces(routing, by):
    first = small_model(routing)
    second = nearly(first, by)
    shares, offs, top, agreed = {"encoder": [], "decoder": []}, [], 0.0, 0
    for text in TEXTS:
        words = first.trace(text).decoder.ids_t[None]
        a, b = first.trace(text, decoder_input_ids=words), second.trace(text, decoder_input_ids=words)
        for stack, tokens in shares.items():
            for t in range(len(a[stack].ids_t)):
                kept = []
                for switch in (a[stack].blocks[1].switch, b[stack].blocks[1].switch):
                    n = "tn" if "expert_tn" in switch else "t"
                    pairs = zip(np.atleast_1d(switch[f"expert_{n}"][t]), np.atleast_1d(switch[f"slot_{n}"][t]), strict=True)
                    kept.append([int(expert) if slot >= 0 else None for expert, slot in pairs])
                tokens.append(kept[0] == kept[1])
        offs += np.abs(a.decoder.logits_tv - b.decoder.logits_tv).ravel().tolist()
        top = max(top, np.abs(a.decoder.logits_tv).max())
        agreed += np.array_equal(first.generate([text]), second.generate([text]))

    found = measured(first, second, TEXTS)

    assert found.routed == {f"{stack}/blocks/1": pytest.approx(np.mean(tokens)) for stack, tokens in shares.items()}
    assert found.largest == pytest.approx(max(offs) / top, rel=1e-5) != 0
    assert found.mean == pytest.approx(np.mean(offs) / top, rel=1e-5)
    assert (found.texts, found.agreed) == (3, agreed)


def test_far_models_part_somewhere():
    first = small_model()

    found = measured(first, nearly(first, 0.5), TEXTS)

    assert min(found.routed.values()) < 1
    assert found.agreed < found.texts
    assert f"greedy answers alike: {found.agreed} of 3" in str(found)
    assert f"{found.routed['encoder/blocks/1']:.2%} of tokens with the same expert" in str(found)


def test_a_token_that_one_drops_is_not_routed_alike():
    open_model, tight = (small_model(replace(PAPER, capacity=capacity)) for capacity in ("unlimited", 1))

    found = measured(open_model, tight, TEXTS[:1])

    slot_t = tight.trace(TEXTS[0]).encoder.blocks[1].switch.slot_t
    assert found.routed["encoder/blocks/1"] == pytest.approx(np.mean(slot_t >= 0)) != 1


def test_texts_are_read_by_the_models_tokenizer():
    model = switchnp.load(ROOT / "weights/switch-numbers.h5")

    assert measured(model, model, ["say in French: 84", "say in German: 3"]).agreed == 2
    with pytest.raises(TokenizerError, match="no tokenizer"):
        measured(small_model(), small_model(), ["a text"])


def test_models_of_two_shapes_and_no_texts_are_refused():
    with pytest.raises(InputError, match="different Configs"):
        measured(small_model(), small_model(num_experts=2), TEXTS)
    with pytest.raises(InputError, match="there is no text"):
        measured(small_model(), small_model(), [])
