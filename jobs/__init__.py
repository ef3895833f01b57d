"""Training: labelled texts and word vectors in, a checkpoint and its reports out."""
