"""Which tokens of a row are alike. Not in the paper.

A backbone that has never learnt to compare two sentences gives a word's other occurrence hardly more attention than any
other token. A side network that mixes tokens by the frozen weights alone then cannot tell that they share words.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from read_cache.networks.inputs import Components, WholeStates

SHARPNESS, THRESHOLD = 16.0, 0.75
"""g and t at first: a token's other occurrences, whose cosine is 1, have 0.98; a cosine of a half has 0.02."""


class Matching(nn.Module):
    """What a token's first state takes from the tokens of its row that are like it.

    q^a   = P norm(phi_0^a), of length 1
    c^ab  = exp(g (q^a q^b - t)) / (1 + sum_{b' != a} exp(g (q^a q^b' - t))),  c^aa = 0
    out^a = sum_b c^ab (V norm(phi_0^b) + m)

    and h_0 = tanh(gain (W_0 norm(phi_0) + out)). The 1 takes what is left where nothing is alike, so a row of c sums to
    how sure it is that something is. norm(phi_0) is standardised as the network is: raw embeddings share a mean, which
    makes all of them more alike. A random P keeps cosines up to width^-0.5.
    """

    def __init__(self, width: int, hidden: int, backbone_width: int) -> None:
        super().__init__()
        self.P = nn.Parameter(torch.randn(width, backbone_width) * backbone_width**-0.5)
        self.V = nn.Parameter(torch.randn(hidden, backbone_width) * backbone_width**-0.5)
        self.m = nn.Parameter(torch.randn(hidden))
        self.g, self.t = nn.Parameter(torch.tensor(SHARPNESS)), nn.Parameter(torch.tensor(THRESHOLD))

    def forward(self, phi: WholeStates | Components, real_BS: Tensor, values: WholeStates | Components) -> Tensor:
        """[B, S, R]. `values` are phi after dropout, which would make like tokens differ."""
        q_BSW = F.normalize(phi.embeddings(self.P).float(), dim=-1)
        score_BSS = self.g * (q_BSW @ q_BSW.transpose(1, 2) - self.t)
        itself = torch.eye(score_BSS.shape[-1], dtype=torch.bool, device=score_BSS.device)
        score_BSS = score_BSS.masked_fill(itself | ~real_BS[:, None], float("-inf"))
        c_BSS = F.pad(score_BSS, (0, 1)).softmax(-1)[..., :-1]
        return c_BSS @ (values.embeddings(self.V) + self.m).to(c_BSS.dtype)
