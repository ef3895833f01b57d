"""What runs on the cluster: text and vectors in, a checkpoint and its report out."""
