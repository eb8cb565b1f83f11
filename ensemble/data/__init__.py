"""Tables, fold splits, decoded images, augmentation, batches."""
