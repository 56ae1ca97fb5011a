"""Training steps that torch.compile makes; where it fails, they run as they are."""

import pytest
import torch
import torch._inductor.config

from read_cache.config import Place, RunConfig
from read_cache.methods.run import LiveSetup, live_methods
from read_cache.store.folder import StoreFolder
from read_cache.training.network_config import NetworkConfig
from read_cache.training.stack import steppers
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


@pytest.mark.parametrize("name", ["dropout", "backbone_dropout"])
def test_a_live_method_with_dropout_steps_as_it_is(words_store, name) -> None:
    """The compiler would draw other random numbers."""
    for rate in (0.0, 0.1):
        settings = live_methods()["lora"](**{"dropout": 0.0, "backbone_dropout": 0.0} | {name: rate})
        config, wrapped = NetworkConfig(kind="lora", settings=settings), []
        learners = LiveSetup(StoreFolder(words_store)).prepare([config], RUN, Place(compile=True)).learners
        assert list(steppers(learners, False, lambda loss, wrapped=wrapped: wrapped.append(loss) or loss)) == learners
        assert len(wrapped) == (rate == 0)


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
