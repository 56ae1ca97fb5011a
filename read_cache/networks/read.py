"""READ: a recurrent network over the layers of a frozen T5.

Eq. 1 of "READ: Recurrent Adaptation of Large Transformers".

Shape letters: L layer, B example, S token (encoder) or node (decoder), D backbone width, R side width, H head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from read_cache.loader.batch import Batch, StackBatch, Statistics
from read_cache.networks.cells import CELL_FUNCTIONS, GATES, STATES, State
from read_cache.networks.config import BackboneShape, ReadConfig
from read_cache.networks.inputs import Components, WholeStates, dropped_out, standardised
from read_cache.networks.matching import Matching


class ReadStack(nn.Module):
    """h_1 … h_N of one stack. `cross` adds the decoder's term from the encoder's last READ state.

    f     = F h_{i-1}
    psi_i = A f^a + sum_b sigma_i^{ab} B f^b  (+ sum_b sigma_cross_i^{ab} C e^b)
    h_i   = Cell(W [norm(phi_i); psi_i], h_{i-1})
    """

    def __init__(self, config: ReadConfig, layers: tuple[int, ...], shape: BackboneShape, cross: bool) -> None:
        super().__init__()
        self.mean_LD: Tensor
        self.scale_LD: Tensor
        self.config, self.layers, self.joined = config, layers, config.attention != "none"
        if config.standardize:
            self.register_buffer("mean_LD", torch.zeros(len(layers) + 1, shape.width))
            self.register_buffer("scale_LD", torch.ones(len(layers) + 1, shape.width))
        sets, width, gates = (1 if config.recurrent else len(layers)), config.hidden, GATES[config.cell] * config.hidden

        def weights(rows: int, columns: int) -> nn.Parameter:
            """Matrices that keep the variance of what they are given, however many follow one another."""
            return nn.Parameter(torch.randn(sets, rows, columns) * columns**-0.5)

        def bias() -> nn.Parameter:
            return nn.Parameter(torch.zeros(sets, gates))

        self.folded = self.joined and gates == width  # psi into gates is no wider than psi: see joiner_weights
        self.W_phi, self.b = weights(gates, shape.width), bias()
        if config.recurrent:  # an untied cell carries no state, so it has no weights for one
            self.W_h, self.b_h = weights(gates, width), bias()
        if config.initial_state == "embeddings":
            self.W_0 = nn.Parameter(torch.randn(width, shape.width) * shape.width**-0.5)
        looks = config.matching and not cross  # the decoder's tokens are the target's
        self.matching = Matching(config.matching, width, shape.width) if looks else None
        if self.joined:
            self.F, self.A, self.B = weights(width, width), weights(width, width), weights(width, width)
            self.W_psi = weights(gates, width)
            self.mixture = nn.ParameterDict()
            if cross:
                self.C = weights(width, width)
            if config.attention == "heads":  # a learned mixture, at first the mean
                names = ("self", "cross") if cross else ("self",)
                self.mixture.update({name: nn.Parameter(torch.zeros(len(layers), shape.heads)) for name in names})

    def forward(
        self,
        stack: StackBatch,
        cross_attention: Tensor | None = None,
        encoded_BSR: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """States h_1 … h_N, [B, S, R] each. `generator` draws the dropout; None outside training."""
        whole = standardised(stack, *self.statistics)
        phi = dropped_out(whole, self.config.dropout, generator)
        state = self.first_state(phi, None if self.matching is None else self.matching(whole, stack.real, phi))
        states: list[Tensor] = []
        joiner = [self.joiner_weights(k) for k in range(len(self.W_phi))] if self.joined else []
        from_encoder: list[Tensor] = []
        if encoded_BSR is not None:
            from_encoder = [F.linear(encoded_BSR, self.into_psi(C, k)) for k, C in enumerate(self.C)]
        bias = self.b + self.b_h if self.folded and self.config.recurrent else self.b
        for i, x in enumerate(phi.layers(self.W_phi, bias)):
            k, h = (0 if self.config.recurrent else i), state[0]
            if self.joined:
                AF, BF = joiner[k]
                psi = plus_product(x, h, AF) if self.folded else F.linear(h, AF)
                psi = torch.baddbmm(psi, self.sigma("self", stack.attention, i), F.linear(h, BF))
                if from_encoder:
                    psi = torch.baddbmm(psi, self.sigma("cross", cross_attention, i), from_encoder[k])
                x = psi if self.folded else plus_product(x, psi, self.W_psi[k])
            if self.folded:  # an RNN, to whose x all has been added
                state = (torch.tanh(x),)
            elif self.config.recurrent:
                from_state = F.linear(h, self.W_h[k], self.b_h[k])
                state = CELL_FUNCTIONS[self.config.cell](x, from_state, state)
            else:
                nothing = tuple(torch.zeros_like(part) for part in state)
                state = CELL_FUNCTIONS[self.config.cell](x, torch.zeros_like(x), nothing)
            states.append(state[0])
        return states

    def joiner_weights(self, k: int) -> tuple[Tensor, Tensor]:
        """A F and B F: one product of h_{i-1} instead of two for each.

        An RNN adds W psi to W_h h, so there they are W A F + W_h and W B F, and W psi costs nothing.
        """
        AF, BF = (self.into_psi(weight[k] @ self.F[k], k) for weight in (self.A, self.B))
        return (AF + self.W_h[k] if self.folded and self.config.recurrent else AF), BF

    def into_psi(self, weight: Tensor, k: int) -> Tensor:
        """A term's weights in psi, or, where W_psi is folded into them, in W psi."""
        return self.W_psi[k] @ weight if self.folded else weight

    @property
    def statistics(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Mean and scale of each layer's channels, where they are standardised."""
        return (self.mean_LD, self.scale_LD) if self.config.standardize else (None, None)

    def set_statistics(self, statistics: Statistics) -> None:
        """Take each layer's channel means and deviations over training rows; networks that take them share them."""
        if self.config.standardize:
            statistics = statistics.of(self.layers)
            self.mean_LD, self.scale_LD = statistics.mean, statistics.scale

    def first_state(self, phi: WholeStates | Components, matched_BSR: Tensor | None = None) -> State:
        """h_0: zero, or tanh(gain (W_0 norm(phi_0) + matched)); an LSTM's cell starts at zero."""
        if self.config.initial_state == "embeddings":
            x_0 = phi.embeddings(self.W_0)
            h_0 = torch.tanh(self.config.embedding_gain * (x_0 if matched_BSR is None else x_0 + matched_BSR))
            return (h_0, torch.zeros_like(h_0))[: STATES[self.config.cell]]
        zero = self.W_phi.new_zeros(*phi.shape, self.config.hidden)
        return (zero, zero)[: STATES[self.config.cell]]

    def sigma(self, kind: str, attention: Tensor | None, layer: int) -> Tensor:
        """[B, to, from]: the layer's attention weights, their heads averaged or mixed by learned weights."""
        assert attention is not None
        if self.config.attention == "mean":
            return attention[layer]
        return torch.einsum("h,hbts->bts", self.mixture[kind][layer].softmax(0), attention[layer])


def plus_product(x_BSG: Tensor, h_BSR: Tensor, W_GR: Tensor) -> Tensor:
    """x + W h, [B, S, G], added where the product is accumulated."""
    return torch.addmm(x_BSG.flatten(0, 1), h_BSR.flatten(0, 1), W_GR.T).view(x_BSG.shape)


class Read(nn.Module):
    """READ over both stacks: y = phi_N + U h_N. U starts at zero, so an untrained network is the backbone.

    `ReadConfig.residual` weighs phi_N, 1 as in the paper.
    """

    def __init__(self, config: ReadConfig, shape: BackboneShape) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        joined = config.attention != "none"  # without the Joiner the encoder's correction has no way to the output
        self.encoder = ReadStack(config, shape.encoder_layers, shape, cross=False) if joined else None
        self.decoder = ReadStack(config, shape.decoder_layers, shape, cross=joined)
        self.U = nn.Parameter(torch.zeros(shape.width, config.hidden))

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """y, [B, T, D]: the corrected final state at every decoder node."""
        batch = batch.of(self.shape.encoder_layers, self.shape.decoder_layers)
        encoded = self.encode(batch.encoder, generator)
        return self.corrected(batch.final, self.correction(batch.decoder, batch.cross_attention, encoded, generator))

    def encode(self, stack: StackBatch, generator: torch.Generator | None = None) -> Tensor | None:
        """The encoder's last READ state, [B, S, R]; None without the Joiner, by which alone the decoder sees it."""
        return None if self.encoder is None else self.encoder(stack, generator=generator)[-1]

    def correction(
        self,
        stack: StackBatch,
        cross_attention: Tensor | None,
        encoded_BSR: Tensor | None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """U h_N, [B, T, D], of the decoder's stack and what `encode` gave."""
        states = self.decoder(stack, cross_attention, encoded_BSR, generator)
        h = states[-1] if self.config.aggregate == "last" else torch.stack(states).mean(dim=0)
        return F.linear(h, self.U)

    def corrected(self, final_BTD: Tensor, correction_BTD: Tensor) -> Tensor:
        """y, [B, T, D], of phi_N and what `correction` gave."""
        return self.config.residual * final_BTD + correction_BTD

    def set_statistics(self, encoder: Statistics, decoder: Statistics) -> None:
        """Take the statistics of both stacks' states over training rows."""
        if self.encoder is not None:
            self.encoder.set_statistics(encoder)
        self.decoder.set_statistics(decoder)


def build_network(config: ReadConfig, shape: BackboneShape, seed: int) -> Read:
    """A network whose weights depend on (config, shape, seed) alone; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Read(config, shape)
