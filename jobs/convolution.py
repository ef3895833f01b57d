"""Max-over-time convolution of texts, computed once for each distinct word of a batch.

A filter of width w over word vectors is a sum of w inner products, one for each place in the
window. So every distinct word of the batch is multiplied with all filters once (one matrix
product), and each window is a sum of w rows of the result. Only the window where a filter is
maximal has a gradient, so the backward pass visits only that one.

The values are those of `torch.nn.functional.conv1d` on texts padded with width - 1 zero vectors
on both sides ("wide" convolution, Kalchbrenner et al. 2014), and of a maximum over the windows
that touch the text: what else is in the batch changes nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def max_over_time(projected: Tensor, tokens: Tensor, lengths: Tensor, width: int) -> Tensor:
    """Return each filter's maximum over each text's windows, `(batch, maps)`.

    Args:
        projected: `(words, width * maps)`: for each distinct word the product with the filter at each
            place of the window; row 0 is padding and all zero.
        tokens: `(batch, length)` int64, rows of `projected`, padded at the end with 0.
        lengths: `(batch,)` int64 tokens of each text. The empty text has one empty window.
        width: words that the filters span.
    """
    return _MaxOverTime.apply(projected, tokens, lengths, width)


class _MaxOverTime(torch.autograd.Function):
    @staticmethod
    def forward(ctx, projected: Tensor, tokens: Tensor, lengths: Tensor, width: int) -> Tensor:
        maps = projected.shape[1] // width
        places = torch.arange(width, device=tokens.device)
        windows = F.pad(tokens, (width - 1, width - 1)).unfold(1, width, 1)  # (batch, windows, width)
        rows = windows * width + places  # of projected seen as (words * width, maps)
        sums = F.embedding_bag(rows.reshape(-1, width), projected.reshape(-1, maps), mode="sum")
        sums = sums.view(*windows.shape[:2], maps)  # (batch, windows, maps)
        # The empty text counts as one word of padding: all of its windows are zero.
        beyond = torch.arange(sums.shape[1], device=tokens.device) >= lengths.clamp(min=1)[:, None] + width - 1
        sums.masked_fill_(beyond[:, :, None], -torch.inf)
        best, where = sums.max(dim=1)  # (batch, maps) each
        ctx.save_for_backward(rows, where)
        ctx.projected_shape = projected.shape
        return best

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        rows, where = ctx.saved_tensors
        width = rows.shape[2]
        maps = gradient.shape[1]
        chosen = rows.gather(1, where[:, :, None].expand(-1, -1, width))  # (batch, maps, width)
        flat = chosen * maps + torch.arange(maps, device=chosen.device)[None, :, None]
        out = gradient.new_zeros(ctx.projected_shape)
        out.view(-1).index_add_(0, flat.reshape(-1), gradient[:, :, None].expand(-1, -1, width).reshape(-1))
        out[0] = 0  # padding is not learned
        return out, None, None, None
