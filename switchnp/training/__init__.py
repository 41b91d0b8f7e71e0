"""How a model learns: recipes, the loop, checkpoints that go on to the bit, and what is written down on the way."""
