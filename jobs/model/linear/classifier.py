"""Linear classifier next to the network, with torch: scores of a batch from its words and pairs of adjacent words."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.model.batches import Batch
from jobs.model.linear.tensors import BIAS, CONSTANT_TENSORS, PAIRS, PREFIX, SCALE, SQUARES, WEIGHT


class LinearClassifier(nn.Module):
    """Scores of texts, which the network adds to its own, multiplied by `scale`.

    Args:
        tensors: those of `jobs.model.linear.tensors`. They are not written to, except a copy of the scale.
    """

    pairs: Tensor
    keys: Tensor  # (pairs,) int64, as of `tensors.compute_keys`
    weight: Tensor
    squares: Tensor
    bias: Tensor
    scale: Tensor  # (classes,)

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name in CONSTANT_TENSORS:
            self.register_buffer(name.removeprefix(PREFIX), tensors[name], persistent=False)
        pairs = tensors[PAIRS].long()
        self.register_buffer("keys", pairs[:, 0] << 32 | pairs[:, 1], persistent=False)
        self.register_buffer("scale", tensors[SCALE].clone())

    def forward(self, batch: Batch) -> Tensor:
        """Return the scores of a batch's texts without the scale, `(texts, classes)`."""
        ids = batch.word_ids[batch.token_indices]  # (tokens,)
        word_rows = ids.where(ids < len(self.squares) - len(self.keys), 0)  # row 0 is all zero
        rows = [word_rows, self._find_pair_rows(ids, batch)]
        offsets = batch.offsets[:-1]
        sums, squares = (
            torch.stack([F.embedding_bag(part, table, offsets, mode="sum") for part in rows]).sum(dim=0)
            for table in (self.weight, self.squares[:, None])
        )
        return sums * torch.where(squares > 0, squares.rsqrt(), 0) + self.bias

    def _find_pair_rows(self, ids: Tensor, batch: Batch) -> Tensor:
        """Return the row of the pair that begins at each token, 0 if there is none, `(tokens,)`."""
        if not len(self.keys) or len(ids) < 2:
            return torch.zeros_like(ids)
        lengths = batch.offsets.diff()
        texts = torch.repeat_interleave(torch.arange(len(batch), device=ids.device), lengths, output_size=len(ids))
        keys = ids[:-1] << 32 | ids[1:]
        indices = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        has_row = (self.keys[indices] == keys) & (texts[:-1] == texts[1:])
        return F.pad(torch.where(has_row, len(self.squares) - len(self.keys) + indices, 0), (0, 1))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by their names in a checkpoint."""
        values = (self.pairs, self.weight, self.squares, self.bias, self.scale)
        return dict(zip((PAIRS, WEIGHT, SQUARES, BIAS, SCALE), values, strict=True))
