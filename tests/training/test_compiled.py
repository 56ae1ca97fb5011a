"""Training steps that torch.compile makes; where it fails, they run as they are."""

import pytest
import torch
import torch._inductor.config

from read_cache.config import RunConfig
from read_cache.watch import Watch
from support.training import network, train_store, weights

RUN = RunConfig(epochs=2, batch_size=8, precision="fp32")
LIKE = [network(cell="rnn", hidden=8, learning_rate=rate) for rate in (1e-3, 5e-3)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own modules
@pytest.mark.parametrize("stack", ["off", "on"])
def test_compiled_networks_become_what_they_would_have_been(tmp_path, words_store, stack) -> None:
    """Within rounding, from one compilation for all lengths of a batch."""
    said: list[str] = []
    counters = torch._dynamo.utils.counters
    plain = train_store(words_store, tmp_path / "plain", LIKE, RUN, stack=stack)
    counters.clear()
    made = train_store(words_store, tmp_path / "made", LIKE, RUN, Watch(say=said.append), stack=stack, compile=True)
    assert not [sentence for sentence in said if "torch.compile" in sentence]
    assert counters["stats"]["unique_graphs"]
    assert not counters["graph_break"]
    for one, other in zip(plain, made, strict=True):
        for name, value in weights(one).items():
            torch.testing.assert_close(weights(other)[name], value, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_without_a_compiler_training_goes_on_as_it_is(tmp_path, words_store) -> None:
    """It is said once, and the weights are those of training without the setting."""
    said: list[str] = []
    plain = train_store(words_store, tmp_path / "plain", LIKE, RUN)
    torch.compiler.reset()  # what earlier tests compiled
    absent = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    with torch._inductor.config.patch(absent):
        made = train_store(words_store, tmp_path / "made", LIKE, RUN, Watch(say=said.append), compile=True)
    assert len([sentence for sentence in said if "torch.compile failed" in sentence]) == 1
    for one, other in zip(plain, made, strict=True):
        assert all(weights(other)[name].equal(value) for name, value in weights(one).items())
