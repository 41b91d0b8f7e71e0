"""What a model learns from: texts and pairs on disk, in mixtures, in batches that can go on where they were left."""
