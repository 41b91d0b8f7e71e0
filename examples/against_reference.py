"""How far are our logits from those that transformers 5.23 computed with the checkpoint of the shipped model?

.venv/bin/python examples/against_reference.py
"""

from pathlib import Path

import numpy as np

import switchnp

ROOT = Path(__file__).resolve().parent.parent


def main():
    """Print the largest difference over 8 teacher-forced prompts, padding left out."""
    reference = np.load(ROOT / "tests/parity/numbers/logits.npz")
    model = switchnp.load(ROOT / "weights/switch-numbers.h5")
    out = model(reference["input_ids"], reference["attention_mask"], reference["decoder_input_ids"])
    said = np.arange(reference["logits"].shape[1]) < reference["decoder_lengths"][:, None]
    difference = np.abs(out.logits - reference["logits"])[said].max()
    largest = np.abs(reference["logits"])[said].max()
    print(f"largest difference from the reference logits: {difference:.1e} (the largest logit is {largest:.1f})")


if __name__ == "__main__":
    main()
